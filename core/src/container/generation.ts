/**
 * A generation is raised when a container's state was found to have gone back (rule L5). It is part of every epoch, and so of all
 * that carries one: the first epoch of generation g is g · 2^32 + 1.
 */
export const EPOCHS_PER_GENERATION: number = 2 ** 32;

export function generationOf(epoch: number): number {
  return Math.floor(epoch / EPOCHS_PER_GENERATION);
}

/** The epoch before the first one of a generation. */
export function epochBefore(generation: number): number {
  return generation * EPOCHS_PER_GENERATION;
}
