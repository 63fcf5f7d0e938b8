import { JetStreamLog } from "@tributary/common/engines/jetstream-log";
import { connectNats, type NatsLink } from "@tributary/common/engines/nats-connection";
import { toTributaryError } from "@tributary/common/errors";
import { decodeFrameHead } from "@tributary/core/container/wal-frame";
import { LakeWatch } from "../check/lake-watch.ts";

const POLL_MS = 150;
const PAGE = { recordsMax: 256, bytesMax: 33_554_432 } as const;

/** Reads the write-ahead logs of a cluster from outside, record by record as they come, and says which frames count. */
export class WalFollower {
  readonly watch: LakeWatch;
  readonly violations: string[] = [];
  /** Records that were truncated before they were seen. */
  missed = 0;
  readonly #link: NatsLink;
  readonly #stop = new AbortController();
  readonly #followers: Promise<void>[] = [];

  private constructor(link: NatsLink) {
    this.#link = link;
    this.watch = new LakeWatch(
      (invariant, kind, detail) => void this.violations.push(`invariant ${invariant}: ${kind}: ${detail}`),
      undefined,
      "forgets",
    );
  }

  static async start(natsUrl: string, names: readonly string[], replicas: number): Promise<WalFollower> {
    const follower = new WalFollower(await connectNats({ url: natsUrl, name: "wal-follower" }));
    for (const [container, name] of names.entries()) follower.#followers.push(follower.#follow(container, name, replicas));
    return follower;
  }

  async stop(): Promise<void> {
    // Once more, for what came last.
    await new Promise((resolve) => setTimeout(resolve, 4 * POLL_MS));
    this.#stop.abort();
    await Promise.all(this.#followers);
    await this.#link.close();
  }

  async #follow(container: number, name: string, replicas: number): Promise<void> {
    const log = await this.#patiently(() => JetStreamLog.open(this.#link, { name, replicas }));
    let next = 1;
    while (log && !this.#stop.signal.aborted) {
      const records = (await this.#patiently(() => log.read(next, PAGE))) ?? [];
      for (const { seq, data } of records) {
        if (seq > next) {
          this.missed += seq - next;
          const { epoch, attempt, previousHash } = decodeFrameHead(data);
          this.watch.begins(container, { epoch, attempt, hash: previousHash });
        }
        this.watch.landed(container, seq, data);
        next = seq + 1;
      }
      if (records.length === 0) await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    }
  }

  /** Servers come and go. */
  async #patiently<T>(ask: () => Promise<T>): Promise<T | undefined> {
    while (!this.#stop.signal.aborted) {
      try {
        return await ask();
      } catch (error) {
        if (!toTributaryError(error).retryable) throw error;
        await new Promise((resolve) => setTimeout(resolve, POLL_MS));
      }
    }
    return undefined;
  }
}
