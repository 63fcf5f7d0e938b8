/** Answers one request. A TributaryError that it throws reaches the requester with code, message and details. */
export type RequestHandler = (payload: Uint8Array, subject: string) => Promise<Uint8Array>;

export interface Subscription {
  /** Stops taking messages and waits for the handlers that are running. */
  close(): Promise<void>;
}

/**
 * Messages between parts. Subjects are NATS subjects: tokens joined by "."; a subscription may use "*" and a final ">".
 * Payloads of any size up to LIMITS.frameBytesMax: engines split what their transport cannot carry whole.
 * Requests of one requester to one subject reach the handler in the order sent; handlers run concurrently.
 */
export interface Bus {
  /** @throws BUS_NO_RESPONDER (not carried out), BUS_TIMEOUT (perhaps carried out), BUS_UNREACHABLE, or what the handler threw */
  request(subject: string, payload: Uint8Array, options: { timeoutMs: number }): Promise<Uint8Array>;
  /** Serves requests; members of one `group` share them, each request going to one of them. */
  serve(subject: string, options: { group?: string }, handler: RequestHandler): Promise<Subscription>;
  /** At most once, to whoever listens now. */
  publish(subject: string, payload: Uint8Array): void;
  subscribe(subject: string, handler: (payload: Uint8Array, subject: string) => void): Promise<Subscription>;
  /** False while the transport is down. `onStatus` is called at each change. */
  connected(): boolean;
  onStatus(listener: (connected: boolean) => void): () => void;
  close(): Promise<void>;
}
