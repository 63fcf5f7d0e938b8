import { closeSync, existsSync, fsyncSync, mkdirSync, openSync } from "node:fs";
import { dirname, resolve } from "node:path";

/**
 * Makes a file's content, or the names in a folder, durable: a new or renamed file is found after a power cut only once its
 * folder was synced.
 */
export function fsyncPathSync(path: string): void {
  const fd = openSync(path, "r");
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}

/** Creates a folder and those above it, durably. */
export function createFolderSync(path: string): void {
  const folder = resolve(path);
  if (existsSync(folder)) return;
  const parent = dirname(folder);
  createFolderSync(parent);
  try {
    // Not recursive: that loops for ever where a parent refuses new folders with ENOENT, as /proc does.
    mkdirSync(folder);
  } catch (error) {
    // Somebody else was quicker.
    if (fsErrorCode(error) !== "EEXIST") throw error;
  }
  fsyncPathSync(parent);
}

/** The `code` of an error of a system call, from node:fs. */
export function fsErrorCode(error: unknown): string | undefined {
  return error instanceof Error && "syscall" in error && "code" in error && typeof error.code === "string" ? error.code : undefined;
}

/** A full disk, a full quota, a file that may not grow. */
export function isNoSpace(error: unknown): boolean {
  const code = fsErrorCode(error);
  return code === "ENOSPC" || code === "EDQUOT" || code === "EFBIG";
}
