import { TributaryError } from "@tributary/common/errors";
import type { Bus, RequestHandler, Subscription } from "@tributary/common/ports/bus";

/** The least of a Bus within one process. */
export class FakeBus implements Bus {
  readonly #handlers = new Map<string, RequestHandler>();
  readonly #listeners = new Map<string, (payload: Uint8Array, subject: string) => void>();

  async request(subject: string, payload: Uint8Array): Promise<Uint8Array> {
    const handler = this.#handlers.get(subject);
    if (!handler) throw new TributaryError("BUS_NO_RESPONDER", subject);
    return handler(payload, subject);
  }
  async serve(subject: string, _options: { group?: string }, handler: RequestHandler): Promise<Subscription> {
    this.#handlers.set(subject, handler);
    return { close: async () => void this.#handlers.delete(subject) };
  }
  publish(subject: string, payload: Uint8Array): void {
    this.#listeners.get(subject)?.(payload, subject);
  }
  async subscribe(subject: string, handler: (payload: Uint8Array, subject: string) => void): Promise<Subscription> {
    this.#listeners.set(subject, handler);
    return { close: async () => void this.#listeners.delete(subject) };
  }
  connected(): boolean {
    return true;
  }
  onStatus(): () => void {
    return () => {};
  }
  async close(): Promise<void> {}
}
