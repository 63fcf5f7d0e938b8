import { type ChildProcess, fork } from "node:child_process";
import { closeSync, openSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { HistoryReport } from "../check/client-histories.ts";
import type { Ledger } from "./ledger.ts";
import { type Connections, enterDevices, type Load, type LoadOptions } from "./load.ts";

/** What a scenario tells a load process: first one, then the other. */
export type LoadOrder = { readonly begin: readonly LoadOptions[] } | { readonly drainWithinMs: number };

/** What a load process tells its scenario, again and again. */
export interface LoadNews {
  /** Since the news before. */
  readonly reports: readonly HistoryReport[];
  readonly refusals: readonly string[];
  readonly connections: Connections;
  /** It ends now as it was told to. */
  readonly last: boolean;
}

export interface LoadProcessesOptions {
  /** For what they say on stderr. */
  readonly folder: string;
  /** Of each process. */
  readonly shares: readonly (readonly LoadOptions[])[];
  /** How long a drain waits for answers. Whatever has none then may be there or not: `unanswered` of the ledger counts it. */
  readonly drainMsMax?: number;
}

const ENTRY = fileURLToPath(new URL("./load-process.ts", import.meta.url));
const DRAIN_MS_MAX = 300_000;

/** Devices as connections of processes of their own. What they do is in the scenario's ledger a little later. */
export class LoadProcesses implements Load {
  readonly refusals: string[] = [];
  readonly devices: number;
  readonly #processes: readonly LoadProcess[];
  readonly #drainMsMax: number;

  constructor(ledger: Ledger, { folder, shares, drainMsMax = DRAIN_MS_MAX }: LoadProcessesOptions) {
    this.devices = shares.flat().reduce((sum, options) => sum + enterDevices(ledger, options).length, 0);
    this.#processes = shares.map((share, i) => {
      const name = `load-${i + 1}`;
      return new LoadProcess(name, join(folder, `${name}.log`), share, ({ reports, refusals }) => {
        ledger.addReports(reports);
        this.refusals.push(...refusals);
      });
    });
    this.#drainMsMax = drainMsMax;
  }

  get count(): number {
    return this.#processes.length;
  }

  connections(): Connections {
    const all = this.#processes.map(({ connections }) => connections);
    return { open: all.reduce((sum, { open }) => sum + open, 0), made: all.reduce((sum, { made }) => sum + made, 0) };
  }

  /** Throws if one of them ended by itself: what its devices were told last is not known. */
  check(): void {
    for (const { failure } of this.#processes) if (failure) throw failure;
  }

  /** Sends nothing new, waits for answers, and ends the processes once they have told everything. */
  async drain(): Promise<void> {
    await Promise.all(this.#processes.map((process) => process.end({ drainWithinMs: this.#drainMsMax })));
    this.check();
  }

  /** Ends what still runs, without a word. */
  async kill(): Promise<void> {
    await Promise.all(this.#processes.map((process) => process.kill()));
  }
}

class LoadProcess {
  connections: Connections = { open: 0, made: 0 };
  failure: Error | undefined;
  readonly #child: ChildProcess;
  readonly #closed: Promise<void>;
  #finished = false;

  constructor(name: string, logPath: string, share: readonly LoadOptions[], heard: (news: LoadNews) => void) {
    const log = openSync(logPath, "a");
    // Without flags of the process that tells the scenario. It ends when the channel does, so that nobody outlives this process.
    const child = fork(ENTRY, { execArgv: [], stdio: ["ignore", log, log, "ipc"] });
    closeSync(log);
    this.#child = child;
    const fail = (why: string) => {
      this.failure ??= new Error(`${name} ${why}; see ${logPath}`);
    };
    child.on("message", (news: LoadNews) => {
      this.connections = news.connections;
      this.#finished ||= news.last;
      heard(news);
    });
    child.on("error", (error) => fail(error.message));
    // Comes behind everything that the process had told.
    this.#closed = new Promise((resolve) => {
      child.on("close", (code, signal) => {
        if (!this.#finished) fail(`ended by itself (${signal ?? code})`);
        resolve();
      });
    });
    this.#tell({ begin: share });
  }

  async end(order: LoadOrder): Promise<void> {
    this.#tell(order);
    await this.#closed;
  }

  async kill(): Promise<void> {
    this.#finished = true;
    this.#child.kill("SIGKILL");
    await this.#closed;
  }

  #tell(order: LoadOrder): void {
    if (this.#child.connected) this.#child.send(order);
  }
}
