/** Thrown when the program itself is wrong. The part that meets one stops before it can write. */
export class AssertionFailure extends Error {
  override readonly name = "AssertionFailure";
}

/** States what must hold whatever the world does. Bad input, full disks and lost messages are errors, not assertions. */
export function assert(condition: unknown, message: string): asserts condition {
  if (!condition) throw new AssertionFailure(message);
}
