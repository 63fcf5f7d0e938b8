import { decodeCbor } from "@tributary/common/format/cbor";
import type { Bus, Subscription } from "@tributary/common/ports/bus";
import { containerOfSubject, type MovedMessage, UPLINK_SUBJECTS } from "@tributary/common/uplink-protocol";

export interface NewsListener {
  /** A container has flushed. */
  tiered(container: number): void;
  /** A container is served under this epoch now. */
  moved(container: number, epoch: number): void;
}

export interface News {
  /** Subscribes if that failed before. */
  ensure(): void;
  close(): Promise<void>;
}

/** One for each bus and cluster: however many gateways share a connection, they cost it two subscriptions. */
const FEEDS = new WeakMap<Bus, Map<string, Feed>>();

/** Hears what the core publishes. It may get lost: whoever listens must do without it in the end. */
export function followCore(bus: Bus, cluster: string, listener: NewsListener): News {
  const feeds = FEEDS.get(bus) ?? new Map<string, Feed>();
  FEEDS.set(bus, feeds);
  const feed = feeds.get(cluster) ?? new Feed(bus, cluster);
  feeds.set(cluster, feed);
  feed.listeners.add(listener);
  feed.ensure();
  return {
    ensure: () => feed.ensure(),
    async close() {
      if (!feed.listeners.delete(listener) || feed.listeners.size > 0) return;
      feeds.delete(cluster);
      await feed.close();
    },
  };
}

class Feed {
  readonly listeners = new Set<NewsListener>();
  readonly #bus: Bus;
  readonly #cluster: string;
  #subscribing: Promise<Subscription[]> | undefined;

  constructor(bus: Bus, cluster: string) {
    this.#bus = bus;
    this.#cluster = cluster;
  }

  ensure(): void {
    if (this.#subscribing || !this.#bus.connected()) return;
    const subscribing = this.#subscribe();
    this.#subscribing = subscribing;
    subscribing.catch(() => {
      // Without news the intervals and the answers do; the next hello tries again.
      if (this.#subscribing === subscribing) this.#subscribing = undefined;
    });
  }

  async close(): Promise<void> {
    const subscriptions = await this.#subscribing?.catch(() => []);
    await Promise.all((subscriptions ?? []).map((subscription) => subscription.close()));
  }

  async #subscribe(): Promise<Subscription[]> {
    const tiered = await this.#bus.subscribe(UPLINK_SUBJECTS.tiered(this.#cluster, "*"), (_, subject) => {
      const container = containerOfSubject(subject);
      if (container !== undefined) for (const listener of this.listeners) listener.tiered(container);
    });
    try {
      const moved = await this.#bus.subscribe(UPLINK_SUBJECTS.moved(this.#cluster, "*"), (payload, subject) => {
        const container = containerOfSubject(subject);
        const epoch = epochIn(payload);
        if (container !== undefined && epoch > 0) for (const listener of this.listeners) listener.moved(container, epoch);
      });
      return [tiered, moved];
    } catch (error) {
      await tiered.close();
      throw error;
    }
  }
}

/** 0 for what is no message of this kind. */
function epochIn(payload: Uint8Array): number {
  try {
    const { epoch } = decodeCbor(payload) as MovedMessage;
    return Number.isSafeInteger(epoch) ? epoch : 0;
  } catch {
    return 0;
  }
}
