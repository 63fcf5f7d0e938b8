import { execFileSync } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const SHIM = fileURLToPath(new URL("shifted.c", import.meta.url));

/** Wall clocks of processes, each of which can be wrong by itself. Needs a C compiler. */
export class WallClocks {
  readonly #folder: string;
  readonly #shim: string;
  readonly #aheadSeconds = new Map<string, number>();

  constructor(folder: string) {
    mkdirSync(folder, { recursive: true });
    this.#folder = folder;
    this.#shim = join(folder, "shifted.so");
    execFileSync("cc", ["-shared", "-fPIC", "-O2", "-o", this.#shim, SHIM, "-ldl"], { stdio: "inherit" });
  }

  /** What a process has to be started with. */
  envOf(name: string): Readonly<Record<string, string>> {
    this.#write(name, 0, "w");
    return { LD_PRELOAD: this.#shim, SHIFTED_CLOCK: this.#fileOf(name) };
  }

  aheadSeconds(name: string): number {
    return this.#aheadSeconds.get(name) ?? 0;
  }

  /** The clock of a process goes forward, or back, at once. */
  jump(name: string, seconds: number): void {
    // In place, for the process has the file mapped.
    this.#write(name, this.aheadSeconds(name) + seconds, "r+");
  }

  #write(name: string, aheadSeconds: number, flag: "w" | "r+"): void {
    const bytes = Buffer.alloc(8);
    bytes.writeBigInt64LE(BigInt(aheadSeconds));
    writeFileSync(this.#fileOf(name), bytes, { flag });
    this.#aheadSeconds.set(name, aheadSeconds);
  }

  #fileOf(name: string): string {
    return join(this.#folder, `${name}.ahead`);
  }
}
