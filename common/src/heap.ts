import { setFlagsFromString } from "node:v8";

/** V8 has it from here on under this name; what comes behind this version is looked at when the pinned Node is raised. */
const V8_MAJOR = "13";
/** What a core adds to what it keeps before its garbage is looked for. */
export const CORE_HEAP_GROWTH_PERCENT = 100;
export const ARRAYS_FLAG = "--external-memory-accounted-in-global-limit";

/**
 * Has V8 count the bytes of typed arrays as part of the heap when it decides whether to look through all of it for garbage. If left
 * alone, V8 does so for every 64 MiB of them that were made: a process that moves 50 MB of events a second and keeps some hundred
 * thousand entries of writers spends half of its processor time on looking at these again and again (measured).
 *
 * For processes that move much and keep much. Other engines than Node's V8 are left as they are.
 *
 * @param growthPercent what may be added to what is alive before it looks: bounds the memory; V8's own choice if it is not given
 */
export function countArraysAsHeap(growthPercent?: number): void {
  if (process.versions["bun"] || process.versions["deno"] || process.versions.v8?.split(".")[0] !== V8_MAJOR) return;
  setFlagsFromString(ARRAYS_FLAG);
  if (growthPercent !== undefined) setFlagsFromString(`--heap-growing-percent=${growthPercent}`);
}
