import { closeSync, existsSync, fsyncSync, openSync, renameSync, rmSync, writeSync } from "node:fs";
import { dirname } from "node:path";
import { createFolderSync } from "@tributary/common/engines/fs-durability";
import type { Random } from "@tributary/common/random";
import type { DiskReserve } from "./log-edge-store.ts";

const RESERVE_BYTES = 1024 * 1024;

/** A file that holds room on the disk. Its bytes are random, so that no file system makes them smaller. */
export class FileReserve implements DiskReserve {
  readonly #path: string;
  readonly #random: Random;

  constructor(path: string, random: Random) {
    this.#path = path;
    this.#random = random;
  }

  release(): boolean {
    if (!existsSync(this.#path)) return false;
    rmSync(this.#path, { force: true });
    return true;
  }

  restore(): void {
    if (existsSync(this.#path)) return;
    const partial = `${this.#path}.partial`;
    try {
      createFolderSync(dirname(this.#path));
      const file = openSync(partial, "w");
      try {
        writeSync(file, this.#random.bytes(RESERVE_BYTES));
        fsyncSync(file);
      } finally {
        closeSync(file);
      }
      renameSync(partial, this.#path);
    } catch {
      // No room for it now. It is asked for again at the next chance.
      rmSync(partial, { force: true });
    }
  }
}
