import type { Clock } from "../clock.ts";
import { TributaryError } from "../errors.ts";
import type { StreamName } from "../names.ts";
import type {
  AppendRequest,
  AppendResult,
  CreateOptions,
  ListedStream,
  ReadPage,
  ReadRequest,
  StreamInfo,
  StreamService,
  WaitOptions,
} from "../stream-service.ts";

/**
 * How long a server works for one request, over all that the request takes: each step may have time-outs of its own, and nobody waits
 * for their sum. What a body takes to arrive does not count, nor does waiting at a stream's end.
 */
export class WorkTime {
  readonly #clock: Clock;
  readonly #msMax: number;
  #leftMs: number;
  #working = 0;
  #onIdle: (() => void)[] = [];

  constructor(clock: Clock, msMax: number) {
    this.#clock = clock;
    this.#msMax = msMax;
    this.#leftMs = msMax;
  }

  /** @throws BUS_TIMEOUT when the time is over; the work goes on, and what comes of it is not looked at */
  run<T>(work: () => Promise<T>): Promise<T> {
    if (this.#leftMs <= 0) return Promise.reject(this.#late());
    const startedMs = this.#clock.monotonicMs();
    return new Promise((resolve, reject) => {
      const late = () => {
        this.#leftMs = 0;
        reject(this.#late());
      };
      const cancel = Number.isFinite(this.#leftMs) ? this.#clock.setTimer(this.#leftMs, late) : undefined;
      this.#working++;
      const ended = () => {
        cancel?.();
        this.#leftMs -= this.#clock.monotonicMs() - startedMs;
        if (--this.#working === 0) for (const callback of this.#onIdle.splice(0)) callback();
      };
      work().finally(ended).then(resolve, reject);
    });
  }

  /** For a request that goes on for as long as its client likes: from here on it has all of its time again. */
  renew(): void {
    this.#leftMs = this.#msMax;
  }

  /** Calls back when nothing is under way, also of what nobody waits for any more: at once, as a rule. */
  whenIdle(callback: () => void): void {
    if (this.#working === 0) callback();
    else this.#onIdle.push(callback);
  }

  #late(): TributaryError {
    return new TributaryError("BUS_TIMEOUT", `not done within ${this.#msMax} ms; it may still be carried out`);
  }
}

/** A service that works within the time of one request. */
export class TimedStreams implements StreamService {
  readonly #streams: StreamService;
  readonly #time: WorkTime;

  constructor(streams: StreamService, time: WorkTime) {
    this.#streams = streams;
    this.#time = time;
  }

  create(name: StreamName, options: CreateOptions): Promise<{ created: boolean; info: StreamInfo }> {
    return this.#time.run(() => this.#streams.create(name, options));
  }
  describe(name: StreamName): Promise<StreamInfo> {
    return this.#time.run(() => this.#streams.describe(name));
  }
  list(options: { scope?: string; after?: StreamName; limit: number }): Promise<ListedStream[]> {
    return this.#time.run(() => this.#streams.list(options));
  }
  listScopes(): Promise<string[]> {
    return this.#time.run(() => this.#streams.listScopes());
  }
  delete(name: StreamName): Promise<void> {
    return this.#time.run(() => this.#streams.delete(name));
  }
  append(name: StreamName, request: AppendRequest): Promise<AppendResult> {
    return this.#time.run(() => this.#streams.append(name, request));
  }
  read(name: StreamName, request: ReadRequest): Promise<ReadPage> {
    return this.#time.run(() => this.#streams.read(name, request));
  }
  /** Has a time of its own. */
  waitForData(name: StreamName, offset: string, options: WaitOptions): Promise<void> {
    return this.#streams.waitForData(name, offset, options);
  }
}
