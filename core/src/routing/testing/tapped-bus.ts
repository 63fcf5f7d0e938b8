import type { Bus, RequestHandler, Subscription } from "@tributary/common/ports/bus";

type Request = () => Promise<Uint8Array>;

/** One node's end of a network: what it sends can be seen, lost, delayed or answered by the test, and the node can be paused or cut off. */
export class TappedBus implements Bus {
  /** Subjects of the requests and messages that the node sent. */
  readonly sent: string[] = [];
  /** Stands between the node and the network for requests that it sends. */
  tap: ((subject: string, request: Request) => Promise<Uint8Array>) | undefined;
  readonly #network: Bus;
  readonly #subscriptions = new Set<Subscription>();
  #resumed: Promise<void> = Promise.resolve();
  #resume: () => void = () => {};

  constructor(network: Bus) {
    this.#network = network;
  }

  /** Requests still arrive and are not answered until `resume`. */
  pause(): void {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#resumed = promise;
    this.#resume = resolve;
  }

  resume(): void {
    this.#resume();
  }

  /** As when the process dies: nobody serves its subjects any more. */
  cut(): void {
    for (const subscription of this.#subscriptions) void subscription.close();
    this.#subscriptions.clear();
  }

  /** Subscriptions that the node holds. */
  get subscriptions(): number {
    return this.#subscriptions.size;
  }

  request(subject: string, payload: Uint8Array, options: { timeoutMs: number }): Promise<Uint8Array> {
    this.sent.push(subject);
    const request = () => this.#network.request(subject, payload, options);
    return this.tap ? this.tap(subject, request) : request();
  }

  async serve(subject: string, options: { group?: string }, handler: RequestHandler): Promise<Subscription> {
    const served = await this.#network.serve(subject, options, async (payload, on) => {
      await this.#resumed;
      return handler(payload, on);
    });
    return this.#track(served);
  }

  async subscribe(subject: string, handler: (payload: Uint8Array, subject: string) => void): Promise<Subscription> {
    return this.#track(await this.#network.subscribe(subject, handler));
  }

  #track(inner: Subscription): Subscription {
    const subscription: Subscription = {
      close: () => {
        this.#subscriptions.delete(subscription);
        return inner.close();
      },
    };
    this.#subscriptions.add(subscription);
    return subscription;
  }

  publish(subject: string, payload: Uint8Array): void {
    this.sent.push(subject);
    this.#network.publish(subject, payload);
  }

  connected(): boolean {
    return true;
  }

  onStatus(): () => void {
    return () => {};
  }

  async close(): Promise<void> {}
}
