import { type ChildProcess, spawn } from "node:child_process";
import { createWriteStream, type WriteStream } from "node:fs";
import { fileURLToPath } from "node:url";
import { PHASES, type Phase } from "@tributary/common/phases";
import type { Victim } from "./victim.ts";

const TRIBUTARY = fileURLToPath(new URL("../../bin/tributary.mjs", import.meta.url));
const PHASE_LINE = /^phase (\w+) (begin|end)$/;

export interface ServerOptions {
  readonly name: string;
  /** Phases that happen inside it; all if not given. */
  readonly phases?: readonly Phase[];
  /** Command and flags of `tributary`. */
  readonly args: readonly string[];
  /** Answers 200 at /ready once the server serves. */
  readonly readyUrl: string;
  readonly logPath: string;
  /** Program and leading arguments that run the entry file; the Node that runs this by default. */
  readonly runtime?: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
}

const READY_MS_MAX = 30_000;
const POLL_MS = 20;

/** Nobody outlives this process, however it ends its work. */
const running = new Set<ChildProcess>();
process.on("exit", () => {
  for (const child of running) child.kill("SIGKILL");
});

/** One server of a scenario as a real process, started again after each kill. */
export class ServerProcess implements Victim {
  readonly #options: ServerOptions;
  readonly #log: WriteStream;
  readonly #open: Record<Phase, number>;
  #child: ChildProcess | undefined;
  #exited: Promise<void> = Promise.resolve();
  #rest = "";
  #beginListener: ((phase: Phase) => void) | undefined;
  /** Milliseconds from the last spawn to /ready. */
  readyMs = 0;

  constructor(options: ServerOptions) {
    this.#options = options;
    this.#log = createWriteStream(options.logPath, { flags: "a" });
    this.#open = Object.fromEntries(PHASES.map((phase) => [phase, 0])) as Record<Phase, number>;
  }

  get name(): string {
    return this.#options.name;
  }

  get phases(): readonly Phase[] {
    return this.#options.phases ?? PHASES;
  }

  get pid(): number {
    return this.#child?.pid ?? 0;
  }

  /** Spawns it and resolves once it is ready. */
  async start(): Promise<void> {
    const [program, ...leading] = this.#options.runtime ?? [process.execPath];
    for (const phase of PHASES) this.#open[phase] = 0;
    this.#rest = "";
    const env = { ...process.env, TRIBUTARY_PHASES: "1", ...this.#options.env };
    const child = spawn(program as string, [...leading, TRIBUTARY, ...this.#options.args], { env, stdio: ["ignore", "pipe", "pipe"] });
    this.#child = child;
    running.add(child);
    child.stdout?.on("data", (chunk) => this.#log.write(chunk));
    child.stderr?.on("data", (chunk: Buffer) => this.#lines(chunk.toString()));
    let gone = false;
    this.#exited = new Promise((resolve) => {
      child.on("close", () => {
        gone = true;
        running.delete(child);
        resolve();
      });
    });
    const startedAt = performance.now();
    while (!(await isReady(this.#options.readyUrl))) {
      if (gone) throw new Error(`${this.name} ended before it was ready; see ${this.#options.logPath}`);
      if (performance.now() - startedAt > READY_MS_MAX) throw new Error(`${this.name} was not ready in time; see ${this.#options.logPath}`);
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    }
    this.readyMs = performance.now() - startedAt;
  }

  killAtBegin(phase: Phase, timeoutMs: number): Promise<void> {
    return new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, timeoutMs);
      this.#beginListener = (begun) => {
        if (begun !== phase) return;
        // At once: some phases are over within a millisecond.
        this.#child?.kill("SIGKILL");
        clearTimeout(timer);
        resolve();
      };
    }).then(() => {
      this.#beginListener = undefined;
    });
  }

  /** SIGKILL. Returns the phases that the kill interrupted: begun, and not ended when the last line had been written. */
  async kill(): Promise<Phase[]> {
    this.#child?.kill("SIGKILL");
    await this.#exited;
    return PHASES.filter((phase) => this.#open[phase] > 0);
  }

  /** SIGTERM, and waits for the end. Returns the exit code. */
  async stop(): Promise<number | null> {
    const child = this.#child;
    if (!child || child.exitCode !== null) return child?.exitCode ?? null;
    child.kill("SIGTERM");
    await this.#exited;
    return child.exitCode;
  }

  #lines(text: string): void {
    const lines = (this.#rest + text).split("\n");
    this.#rest = lines.pop() ?? "";
    for (const line of lines) {
      const match = PHASE_LINE.exec(line);
      if (!match) {
        this.#log.write(`${line}\n`);
        continue;
      }
      const phase = match[1] as Phase;
      this.#open[phase] += match[2] === "begin" ? 1 : -1;
      if (match[2] === "begin") this.#beginListener?.(phase);
    }
  }
}

async function isReady(url: string): Promise<boolean> {
  try {
    const response = await fetch(url, { signal: AbortSignal.timeout(2_000) });
    await response.arrayBuffer();
    return response.status === 200;
  } catch {
    return false;
  }
}
