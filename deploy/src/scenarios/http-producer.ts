import { Agent, request } from "node:http";
import type { Socket } from "node:net";

/** An idempotent HTTP producer: repeats a request under the same sequence until it is answered for good. */
export interface HttpProducerOptions {
  readonly port: number;
  /** "scope/stream". */
  readonly stream: string;
  readonly producerId: string;
  readonly key: string;
  /** Events of one request; more than one are sent as lines. */
  readonly batch: number;
  /** Between an answer and the next request. */
  readonly intervalMs: number;
  next(count: number): { from: number; to: number; body: string } | undefined;
  acked(from: number, to: number): void;
  /** An answer that no repetition can mend. */
  refused(status: number, body: string): void;
}

const RETRY_MS = 100;
const ANSWER_MS_MAX = 10_000;

export class HttpProducer {
  readonly #options: HttpProducerOptions;
  readonly #agent = new Agent({ keepAlive: true, maxSockets: 1 });
  #seq = 0;
  #stopped = false;
  #socket: Socket | undefined;
  /** How often it was connected. */
  connects = 0;
  readonly #done: Promise<void>;

  constructor(options: HttpProducerOptions) {
    this.#options = options;
    this.#done = this.#run();
  }

  get isConnected(): boolean {
    return this.#socket?.readyState === "open";
  }

  /** Sends nothing new, and resolves once everything sent is acknowledged. */
  async drain(): Promise<void> {
    this.#stopped = true;
    await this.#done;
    this.#agent.destroy();
  }

  async #run(): Promise<void> {
    while (!this.#stopped) {
      const batch = this.#options.next(this.#options.batch);
      if (!batch) break;
      for (;;) {
        const answer = await this.#post(batch.body).catch(() => undefined);
        if (answer && answer.status >= 200 && answer.status < 300) break;
        // 4xx but 429 will not change by itself.
        if (answer && answer.status >= 400 && answer.status < 500 && answer.status !== 429) {
          this.#options.refused(answer.status, answer.body);
          return;
        }
        await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
      }
      this.#seq++;
      this.#options.acked(batch.from, batch.to);
      if (this.#options.intervalMs > 0 && !this.#stopped) await new Promise((resolve) => setTimeout(resolve, this.#options.intervalMs));
    }
  }

  #post(body: string): Promise<{ status: number; body: string }> {
    const { port, stream, producerId, key, batch } = this.#options;
    return new Promise((resolve, reject) => {
      const headers: Record<string, string | number> = {
        "content-type": "application/octet-stream",
        "content-length": Buffer.byteLength(body),
        "producer-id": producerId,
        "producer-epoch": 0,
        "producer-seq": this.#seq,
        "routing-key": key,
      };
      if (batch > 1) headers["event-split"] = "lines";
      const outgoing = request({
        host: "127.0.0.1",
        port,
        path: `/v1/stream/${stream}`,
        method: "POST",
        agent: this.#agent,
        headers,
        timeout: ANSWER_MS_MAX,
      });
      outgoing.on("timeout", () => outgoing.destroy(new Error("no answer in time")));
      outgoing.on("error", reject);
      outgoing.on("socket", (socket) => {
        if (socket === this.#socket) return;
        this.#socket = socket;
        socket.once("connect", () => this.connects++);
      });
      outgoing.on("response", (response) => {
        const chunks: Buffer[] = [];
        response.on("data", (chunk) => chunks.push(chunk));
        response.on("end", () => resolve({ status: response.statusCode ?? 0, body: Buffer.concat(chunks).toString() }));
        response.on("error", reject);
      });
      outgoing.end(body);
    });
  }
}
