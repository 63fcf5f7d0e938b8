import { type Clock, sleep } from "../clock.ts";
import { TributaryError } from "../errors.ts";
import type { Bus, RequestHandler, Subscription } from "../ports/bus.ts";

export interface LateBusOptions {
  /** Opens the real bus; tried again until it succeeds or the late bus is closed. */
  readonly connect: (signal: AbortSignal) => Promise<Bus>;
  readonly clock: Clock;
  readonly retryMs: number;
  /** Each failed try. */
  readonly onFailure: (error: unknown) => void;
}

/**
 * A Bus whose transport may not be there yet: a gateway starts and works while its NATS server is away. Until the first connection
 * everything fails with BUS_UNREACHABLE, and `connected` is false.
 */
export function createLateBus(options: LateBusOptions): Bus {
  return new LateBus(options);
}

class LateBus implements Bus {
  readonly #closing = new AbortController();
  readonly #statusListeners = new Set<(connected: boolean) => void>();
  readonly #connecting: Promise<void>;
  #bus: Bus | undefined;

  constructor(options: LateBusOptions) {
    this.#connecting = this.#connect(options);
  }

  async #connect({ connect, clock, retryMs, onFailure }: LateBusOptions): Promise<void> {
    const { signal } = this.#closing;
    while (!signal.aborted) {
      try {
        const bus = await connect(signal);
        this.#bus = bus;
        bus.onStatus((connected) => this.#report(connected));
        if (bus.connected()) this.#report(true);
        return;
      } catch (error) {
        if (signal.aborted) return;
        onFailure(error);
        await sleep(clock, retryMs, signal);
      }
    }
  }

  #report(connected: boolean): void {
    for (const listener of this.#statusListeners) listener(connected);
  }

  #mustBeThere(): Bus {
    if (!this.#bus) throw new TributaryError("BUS_UNREACHABLE", "not connected yet");
    return this.#bus;
  }

  async request(subject: string, payload: Uint8Array, options: { timeoutMs: number }): Promise<Uint8Array> {
    return this.#mustBeThere().request(subject, payload, options);
  }

  async serve(subject: string, options: { group?: string }, handler: RequestHandler): Promise<Subscription> {
    return this.#mustBeThere().serve(subject, options, handler);
  }

  publish(subject: string, payload: Uint8Array): void {
    this.#bus?.publish(subject, payload);
  }

  async subscribe(subject: string, handler: (payload: Uint8Array, subject: string) => void): Promise<Subscription> {
    return this.#mustBeThere().subscribe(subject, handler);
  }

  connected(): boolean {
    return this.#bus?.connected() ?? false;
  }

  onStatus(listener: (connected: boolean) => void): () => void {
    this.#statusListeners.add(listener);
    return () => this.#statusListeners.delete(listener);
  }

  async close(): Promise<void> {
    this.#closing.abort();
    await this.#connecting;
    await this.#bus?.close();
  }
}
