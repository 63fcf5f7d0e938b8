import type { Clock } from "@tributary/common/clock";
import { TributaryError } from "@tributary/common/errors";
import type { Bus } from "@tributary/common/ports/bus";
import type { Random } from "@tributary/common/random";

export interface Faults {
  /** Shares of requests that are lost, carried out without an answer, carried out twice, and delayed. */
  readonly lostRequests: number;
  readonly lostAnswers: number;
  readonly doubled: number;
  readonly delayed: number;
  readonly lostMessages: number;
}

/** A Bus that loses, repeats and delays what goes through it, and can be cut off. */
export class FaultyBus implements Bus {
  faults: Faults | undefined;
  /** Subjects that nobody is there for. */
  refuses: (subject: string) => boolean = () => false;
  /** Subjects of which each answer is made nonsense. */
  garbles: (subject: string) => boolean = () => false;
  readonly #bus: Bus;
  readonly #clock: Clock;
  readonly #random: Random;
  readonly #listeners = new Set<(connected: boolean) => void>();
  #up = true;

  constructor(bus: Bus, clock: Clock, random: Random) {
    this.#bus = bus;
    this.#clock = clock;
    this.#random = random;
  }

  setConnected(up: boolean): void {
    if (up === this.#up) return;
    this.#up = up;
    for (const listener of this.#listeners) listener(up);
  }

  async request(subject: string, payload: Uint8Array, options: { timeoutMs: number }): Promise<Uint8Array> {
    const unreachable = () => new TributaryError("BUS_UNREACHABLE", "cut off");
    const happens = (share: number | undefined) => this.#random.float() < (share ?? 0);
    const after = (ms: number) => new Promise<void>((resolve) => this.#clock.setTimer(ms, resolve));
    if (!this.#up) throw unreachable();
    if (this.refuses(subject)) throw new TributaryError("BUS_NO_RESPONDER", "refused by the test");
    const timeout = () => after(options.timeoutMs).then(() => Promise.reject(new TributaryError("BUS_TIMEOUT", "lost")));
    if (happens(this.faults?.lostRequests)) return timeout();
    if (happens(this.faults?.delayed)) await after(this.#random.float() * options.timeoutMs);
    if (happens(this.faults?.doubled)) {
      const late = async () => {
        await after(this.#random.float() * options.timeoutMs * 2);
        await this.#bus.request(subject, payload, options);
      };
      late().catch(() => {});
    }
    const answer = await this.#bus.request(subject, payload, options);
    if (!this.#up) throw unreachable();
    if (happens(this.faults?.lostAnswers)) return timeout();
    return this.garbles(subject) ? answer.map((byte) => byte ^ 0xff) : answer;
  }

  publish(subject: string, payload: Uint8Array): void {
    this.#bus.publish(subject, payload);
  }

  subscribe: Bus["subscribe"] = (subject, handler) =>
    this.#bus.subscribe(subject, (payload, on) => {
      if (this.#up && this.#random.float() >= (this.faults?.lostMessages ?? 0)) handler(payload, on);
    });

  serve: Bus["serve"] = (subject, options, handler) => this.#bus.serve(subject, options, handler);

  connected(): boolean {
    return this.#up;
  }

  onStatus(listener: (connected: boolean) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  async close(): Promise<void> {}
}
