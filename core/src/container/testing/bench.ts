import { TributaryError } from "@tributary/common/errors";
import type { BlockWriter } from "@tributary/common/format/block";
import type { Id } from "@tributary/common/names";
import type { Log } from "@tributary/common/ports/log";
import type { ObjectStore } from "@tributary/common/ports/object-store";
import type { AppendRequest, EventPack, ReadEvent } from "@tributary/common/stream-service";
import type { Container } from "../container.ts";
import { createContainer } from "../create-container.ts";
import type { ContainerOptions } from "../options.ts";
import { SEGMENT } from "./gateway.ts";
import { SimulatedWorld, seededRandom } from "./simulated-ports.ts";

export const STREAM: Id = "a".repeat(32);
export const WRITER: BlockWriter = { writer: "b".repeat(32), incarnation: "c".repeat(16), lane: "live" };
const decoder = new TextDecoder();

/** A world whose steps run by themselves until the awaited thing has happened. */
export class Bench {
  readonly world: SimulatedWorld = new SimulatedWorld(seededRandom(7));
  failures: TributaryError[] = [];
  #epoch = 0;

  async until<T>(work: Promise<T>): Promise<T> {
    let settled = false;
    const done = work.finally(() => {
      settled = true;
    });
    done.catch(() => {});
    for (let idle = 0; !settled; ) {
      await new Promise((resolve) => setImmediate(resolve));
      if (settled) break;
      if (this.world.step()) idle = 0;
      else {
        this.world.clock.advance(50);
        if (++idle > 2_000) throw new Error("nothing happens any more");
      }
    }
    return done;
  }

  /** Names of all objects but those that say which epochs were used. */
  get lake(): string[] {
    return [...this.world.objects.keys()].filter((name) => !name.includes("/epochs/"));
  }

  /** Stands between the containers opened from now on and their ports. */
  wrapLog: (log: Log) => Log = (log) => log;
  wrapStore: (store: ObjectStore) => ObjectStore = (store) => store;

  create(options: Partial<ContainerOptions> = {}): Container {
    const epoch = ++this.#epoch;
    const container = createContainer({
      id: 3,
      epoch,
      log: this.wrapLog(this.world.log(epoch)),
      objects: this.wrapStore(this.world.store(epoch)),
      clock: this.world.clock,
      random: this.world.random,
      options: { flushIntervalMs: 1_000_000, ...options },
    });
    container.onFailed((error) => this.failures.push(error));
    return container;
  }

  async open(options: Partial<ContainerOptions> = {}): Promise<Container> {
    const container = this.create(options);
    await this.until(container.open());
    return container;
  }

  async stream(container: Container, id: Id = STREAM, segments = 1): Promise<void> {
    await this.until(
      container.ensureStream({
        id,
        segments: Array.from({ length: segments }, (_, number) => ({ ...SEGMENT, number })),
        contentType: "text/plain",
        closed: false,
      }),
    );
  }

  async readAll(container: Container, id: Id = STREAM, eventsMax = 3): Promise<ReadEvent[]> {
    const events: ReadEvent[] = [];
    for (let chain = 0; ; ) {
      const page = await this.until(container.read(id, chain, { eventsMax, bytesMax: 1_000_000 }));
      if (page.events.length === 0) return events;
      if (page.nextChain !== chain + page.events.length) throw new Error("a page has an event for each chain ordinal");
      events.push(...page.events);
      chain = page.nextChain;
    }
  }

  async texts(container: Container, id: Id = STREAM): Promise<string[]> {
    return (await this.readAll(container, id)).map((event) =>
      event.gap ? `gap ${event.gap.first}+${event.gap.count}` : decoder.decode(event.data),
    );
  }

  /** The error that the work fails with. */
  async error(work: Promise<unknown>): Promise<TributaryError> {
    const outcome = work.then(
      () => new Error("it did not fail"),
      (reason: unknown) => reason,
    );
    const error = await this.until(outcome);
    if (error instanceof TributaryError) return error;
    throw error;
  }

  /** Lets the world go on until the condition holds. */
  async settle(condition: () => boolean): Promise<void> {
    await this.until(
      new Promise<void>((resolve) => {
        const look = () => (condition() ? resolve() : this.world.clock.setTimer(1, look));
        look();
      }),
    );
  }
}

export function pack(texts: readonly string[], keys?: readonly string[]): EventPack {
  const payload = new TextEncoder().encode(texts.join(""));
  const ends = texts.map((_, i) => texts.slice(0, i + 1).join("").length);
  return { count: texts.length, payload, ends, keys, timesMs: undefined };
}

export function request(texts: readonly string[], more: Partial<AppendRequest> = {}): AppendRequest {
  return { events: pack(texts), contentType: undefined, ...more };
}
