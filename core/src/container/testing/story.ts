import { hasCode, TributaryError } from "@tributary/common/errors";
import type { GapSlice } from "@tributary/common/format/block";
import { formatSegmentId, type Id } from "@tributary/common/names";
import type { EventPack, ReadEvent } from "@tributary/common/stream-service";
import { SLICE_STATUS } from "@tributary/common/uplink-protocol";
import type { Container } from "../container.ts";
import { FRAME_KIND, judgeFrame, WAL_START } from "../counting.ts";
import { createContainer } from "../create-container.ts";
import { frameHash } from "../frame-hash.ts";
import { decodeFrameHead } from "../wal-frame.ts";
import { block, SEGMENT, type TestEvent, type TestSlice } from "./gateway.ts";
import { SimulatedWorld, seededRandom } from "./simulated-ports.ts";

export const STREAMS: readonly Id[] = ["a".repeat(32), "b".repeat(32)];
const SEGMENTS = [SEGMENT, { ...SEGMENT, number: 1 }];
const GAP_EVERY = 7;

/** Small bounds, so that a short story has frames, flushes, snapshots and truncations in plenty. */
const OPTIONS = {
  windowFrames: 3,
  frameBytesTarget: 700,
  appendTimeoutMs: 400,
  flushBytes: 3_000,
  flushIntervalMs: 150,
  checkpointObjectsMax: 3,
} as const;

interface Owner {
  readonly node: number;
  readonly container: Container;
  /** Rejects when the node dies: whoever waits for it must not wait for ever. */
  readonly death: Promise<never>;
  die(): void;
  alive: boolean;
}

interface Client {
  readonly name: string;
  run(owner: Owner): Promise<void>;
}

class NodeDied extends Error {}

const isRefusal = (error: unknown): boolean => error instanceof NodeDied || error instanceof TributaryError;

/**
 * Clients of all kinds use a container while its owners die, are deposed and go on, and while log and store answer late, wrongly
 * or not at all. What was answered is kept, and compared with what can be read then and in the end.
 */
export class Story {
  readonly world: SimulatedWorld;
  readonly failures: string[] = [];
  /** What was seen at each place, ever. */
  readonly #seen = new Map<string, string>();
  readonly #owners: Owner[] = [];
  readonly #clients: Client[] = [];
  readonly #lastChecks: ((container: Container) => Promise<void>)[] = [];
  readonly #checks: ((events: ReadonlyMap<Id, readonly ReadEvent[]>) => void)[] = [];
  #epoch = 0;
  #over = false;
  acknowledged = 0;
  takeOvers = 0;

  constructor(seed: number) {
    this.world = new SimulatedWorld(seededRandom(seed));
    for (let i = 0; i < 2; i++) this.#addGateway(i);
    for (let i = 0; i < 2; i++) this.#addProducer(i);
    this.#addPlainCaller();
    this.#addReader();
    this.#addShortLived();
  }

  async run(steps: number): Promise<void> {
    await this.#drive(this.#takeOver());
    const actors = this.#clients.map((client) => this.#act(client));
    for (let i = 0; i < steps; i++) {
      if (this.world.chance(0.02)) {
        const bad = this.world.chance(0.5);
        this.world.faults = bad ? { landed: 0.1, lost: 0.05, late: 0.1, object: 0.2 } : { landed: 0, lost: 0, late: 0, object: 0 };
      }
      if (this.world.chance(0.012)) this.#chaos();
      await this.#turn();
    }
    this.#over = true;
    this.world.faults = { landed: 0, lost: 0, late: 0, object: 0 };
    for (const owner of this.#owners) owner.die();
    await this.#drive(Promise.all(actors));
    let before: string | undefined;
    for (let round = 0; round < 2; round++) {
      const events = await this.#readEverything();
      const now = JSON.stringify([...events.values()]);
      if (before !== undefined && before !== now) this.failures.push("two owners one after the other read different histories");
      before = now;
      for (const check of this.#checks) check(events);
    }
  }

  /** What the whole log was, from its first record on. */
  audit(): { counting: number; deposed: number; orphaned: number; checkpoints: number; snapshots: number } {
    const counts = { counting: 0, deposed: 0, orphaned: 0, checkpoints: 0, snapshots: 0 };
    let position = WAL_START;
    for (const [i, data] of this.world.history.entries()) {
      const head = decodeFrameHead(data);
      const verdict = judgeFrame(position, i + 1, head);
      if (verdict === "corrupt") this.failures.push(`record ${i + 1} is corrupt`);
      if (verdict === "void") counts[head.epoch === position.epoch && head.attempt === position.attempt ? "orphaned" : "deposed"]++;
      if (verdict !== "counts") continue;
      counts.counting++;
      if (head.kind === FRAME_KIND.checkpoint) counts.checkpoints++;
      position = { seq: i + 1, epoch: head.epoch, attempt: head.attempt, number: head.number, hash: frameHash(data) };
    }
    for (const name of this.world.objects.keys()) if (name.includes("/snapshot/")) counts.snapshots++;
    return counts;
  }

  async #turn(): Promise<void> {
    await new Promise((resolve) => setImmediate(resolve));
    if (this.world.chance(0.9) && this.world.step()) return;
    this.world.clock.advance(Math.floor(this.world.random.float() * 40));
  }

  async #drive<T>(work: Promise<T>): Promise<T> {
    let settled = false;
    const done = work.finally(() => {
      settled = true;
    });
    done.catch(() => {});
    for (let turns = 0; !settled; turns++) {
      if (turns > 50_000) throw new Error("the story does not end");
      await this.#turn();
    }
    return done;
  }

  /** A new owner; those before may live on without knowing. */
  async #takeOver(): Promise<Owner> {
    const epoch = ++this.#epoch;
    this.takeOvers++;
    let die = () => {};
    const death = new Promise<never>((_, reject) => {
      die = () => reject(new NodeDied());
    });
    death.catch(() => {});
    const { world } = this;
    const container = createContainer({
      id: 1,
      epoch,
      log: world.log(epoch),
      objects: world.store(epoch),
      clock: world.clock,
      random: world.random,
      options: OPTIONS,
    });
    const owner: Owner = {
      node: epoch,
      container,
      death,
      alive: true,
      die: () => {
        if (!owner.alive) return;
        owner.alive = false;
        world.kill(epoch);
        die();
      },
    };
    container.onFailed((error) => {
      if (error.code !== "CONTAINER_NOT_OWNED") this.failures.push(`epoch ${epoch} stopped: ${error.code} ${error.message}`);
    });
    this.#owners.push(owner);
    await Promise.race([container.open(), death]);
    for (const id of STREAMS) {
      await Promise.race([container.ensureStream({ id, segments: SEGMENTS, contentType: "text/plain", closed: false }), death]);
    }
    return owner;
  }

  #chaos(): void {
    const newest = this.#owners.at(-1);
    if (this.world.chance(0.45)) newest?.die();
    else if (this.world.chance(0.3)) newest?.container.close().catch(() => {});
    this.#takeOver().catch((error: unknown) => {
      if (hasCode(error, "FRAME_CORRUPT", "STORE_CORRUPT", "INTERNAL")) this.failures.push(`opening: ${error.code} ${error.message}`);
      else if (!isRefusal(error)) this.failures.push(`opening: ${String(error)}`);
    });
    // A zombie does not live for ever, or nobody would ever get to the log.
    for (const owner of this.#owners.slice(0, -3)) owner.die();
  }

  async #act(client: Client): Promise<void> {
    while (!this.#over) {
      const alive = this.#owners.filter((owner) => owner.alive);
      const owner = this.world.chance(0.8) ? alive.at(-1) : alive[Math.floor(this.world.random.float() * alive.length)];
      try {
        if (owner) await client.run(owner);
      } catch (error) {
        if (hasCode(error, "INTERNAL", "STORE_CORRUPT")) this.failures.push(`${client.name}: ${error.code} ${error.message}`);
        else if (!isRefusal(error)) this.failures.push(`${client.name}: ${(error as Error).stack}`);
      }
      await new Promise<void>((resolve) => this.world.clock.setTimer(Math.floor(this.world.random.float() * 30), resolve));
    }
  }

  async #readEverything(): Promise<Map<Id, ReadEvent[]>> {
    const owner = await this.#drive(this.#takeOver());
    const all = new Map<Id, ReadEvent[]>();
    for (const streamId of STREAMS) {
      const events: ReadEvent[] = [];
      for (let more = true; more; ) {
        const page = await this.#drive(owner.container.read(streamId, events.length, { eventsMax: 17, bytesMax: 1_000_000 }));
        this.#notice(streamId, events.length, page.events);
        events.push(...page.events);
        more = page.events.length > 0;
      }
      all.set(streamId, events);
      for (const [i, segment] of SEGMENTS.entries()) {
        const ordinals = events.filter((event) => event.segment === formatSegmentId(segment)).map((event) => event.ordinal);
        const length = owner.container.describe(streamId)?.segmentLengths[i]?.length;
        if (ordinals.length !== length || ordinals.some((ordinal, at) => ordinal !== at)) this.failures.push("ordinals are not contiguous");
      }
    }
    for (const check of this.#lastChecks) await this.#drive(check(owner.container));
    await this.#drive(owner.container.close());
    return all;
  }

  #notice(streamId: Id, chain: number, events: readonly ReadEvent[]): void {
    for (const [i, event] of events.entries()) {
      const text = JSON.stringify([
        event.writer,
        event.incarnation,
        event.number,
        event.key,
        event.gap,
        Buffer.from(event.data).toString(),
      ]);
      for (const place of [`${streamId} ${event.segment} ${event.ordinal}`, `${streamId} chain ${chain + i}`]) {
        const before = this.#seen.get(place);
        if (before !== undefined && before !== text) this.failures.push(`at ${place} stood ${before}, now ${text}`);
        this.#seen.set(place, text);
      }
    }
  }

  #addGateway(index: number): void {
    const identity = { writer: String(index).repeat(32), incarnation: String(index).repeat(16), lane: "live" } as const;
    const streamId = STREAMS[0] as Id;
    const segmentOf = (number: number) => (Math.floor(number / 2) % 3 === 0 ? 1 : 0);
    const text = (number: number) => `gateway ${index} event ${number}`;
    let confirmed = 0;
    const tiered = [0, 0];
    const { random } = this.world;
    const make = (from: number, to: number) => {
      const slices: TestSlice[] = [];
      const gaps: GapSlice[] = [];
      for (const [s, segment] of SEGMENTS.entries()) {
        let previous = from - 1;
        while (previous > 0 && segmentOf(previous) !== s) previous--;
        let events: TestEvent[] = [];
        let start = previous;
        const close = (last: number) => {
          if (events.length > 0) slices.push({ streamId, segment, previous: start, events });
          events = [];
          start = last;
        };
        for (let number = from; number <= to; number++) {
          if (segmentOf(number) !== s) continue;
          if (number % GAP_EVERY === 0) {
            close(previous);
            const span = { previous, first: number, last: number, count: 1 };
            // Gaps follow the events in a test block: a block ends with its first gap.
            gaps.push({ kind: "gap", streamId, segment, ...span, reason: "quota", timeMinMs: 1, timeMaxMs: 1 });
            break;
          }
          events.push({ number, data: text(number) });
          previous = number;
        }
        close(previous);
      }
      return block(identity, slices, gaps);
    };
    this.#clients.push({
      name: `gateway ${index}`,
      run: async (owner) => {
        let next = Math.max(1, confirmed + 1 - Math.floor(random.float() * 3));
        const sent: Promise<void>[] = [];
        for (let i = 0; i < 3; i++) {
          let to = next + Math.floor(random.float() * 4);
          for (let number = next; number <= to; number++) if (number % GAP_EVERY === 0) to = number;
          const [from, last] = [next, to];
          next = to + 1;
          const value = make(from, last);
          sent.push(
            Promise.race([owner.container.appendBlock(value), owner.death]).then(({ slices }) => {
              for (const [status] of slices) {
                if (status === SLICE_STATUS.forked || status > SLICE_STATUS.forked) this.failures.push(`gateway: status ${status}`);
              }
              if (!slices.every(([status]) => status === SLICE_STATUS.accepted)) return;
              if (from <= confirmed + 1) confirmed = Math.max(confirmed, last);
              this.acknowledged += last - from + 1;
            }),
          );
        }
        const results = await Promise.allSettled(sent);
        for (const result of results) if (result.status === "rejected" && !isRefusal(result.reason)) throw result.reason;
        if (!owner.alive) return;
        const levels = owner.container.levels({
          writer: identity.writer,
          entries: SEGMENTS.map((segment) => ({ streamId, segment, incarnation: identity.incarnation, lane: "live" })),
        });
        levels.entries.forEach(([committed, inTier], s) => {
          if (inTier > committed) this.failures.push("more is tiered than committed");
          tiered[s] = Math.max(tiered[s] as number, inTier);
        });
      },
    });
    this.#checks.push((events) => {
      const own = (events.get(streamId) ?? []).filter((event) => event.writer === identity.writer);
      for (const [s, segment] of SEGMENTS.entries()) {
        const numbers = own.filter((event) => event.segment === formatSegmentId(segment)).map((event) => event.number);
        const last = numbers.at(-1) ?? 0;
        const expected = Array.from({ length: last }, (_, i) => i + 1).filter((number) => segmentOf(number) === s);
        if (JSON.stringify(numbers) !== JSON.stringify(expected)) this.failures.push(`gateway ${index}: numbers ${numbers} in ${s}`);
        if (last < (tiered[s] as number)) this.failures.push(`gateway ${index}: tiered ${tiered[s]} but only ${last} there`);
      }
      const all = new Map(own.map((event) => [event.number, event]));
      for (let number = 1; number <= confirmed; number++) {
        const event = all.get(number);
        const right = number % GAP_EVERY === 0 ? event?.gap?.first === number : Buffer.from(event?.data ?? []).toString() === text(number);
        if (!right) this.failures.push(`gateway ${index}: event ${number} of ${confirmed} confirmed is lost`);
      }
    });
  }

  #addProducer(index: number): void {
    const streamId = STREAMS[1] as Id;
    let seq = 0;
    const text = (n: number) => `producer ${index} event ${n}`;
    this.#clients.push({
      name: `producer ${index}`,
      run: async ({ container, death }) => {
        const producer = { id: `p${index}`, epoch: 0, seq };
        await Promise.race([container.append(streamId, { events: pack(text(seq), `k${index}`), contentType: undefined, producer }), death]);
        this.acknowledged++;
        seq++;
      },
    });
    this.#checks.push((events) => {
      const own = (events.get(streamId) ?? [])
        .map((event) => Buffer.from(event.data).toString())
        .filter((data) => data.startsWith(`producer ${index} `));
      if (own.length < seq || own.some((data, i) => data !== text(i)))
        this.failures.push(`producer ${index}: ${seq} acknowledged, read ${own}`);
    });
  }

  #addPlainCaller(): void {
    const streamId = STREAMS[1] as Id;
    const acknowledged = new Set<string>();
    let count = 0;
    this.#clients.push({
      name: "plain caller",
      run: async ({ container, death }) => {
        const texts = Array.from({ length: 4 }, () => `plain ${count++}`);
        await Promise.all(
          texts.map(async (text) => {
            await Promise.race([container.append(streamId, { events: pack(text, text), contentType: undefined }), death]);
            acknowledged.add(text);
          }),
        );
      },
    });
    this.#checks.push((events) => {
      const read = (events.get(streamId) ?? [])
        .map((event) => Buffer.from(event.data).toString())
        .filter((data) => data.startsWith("plain"));
      if (new Set(read).size !== read.length) this.failures.push("plain: an event is there twice");
      for (const text of acknowledged) if (!read.includes(text)) this.failures.push(`${text} was acknowledged and is lost`);
    });
  }

  /** Streams that come and go: once a deletion is answered, nobody finds the stream again. */
  #addShortLived(): void {
    let count = 0;
    const kept = new Map<Id, string[]>();
    const deleted = new Set<Id>();
    this.#clients.push({
      name: "short-lived streams",
      run: async ({ container, death }) => {
        const streamId = String(count++).padStart(32, "0");
        const wait = <T>(work: Promise<T>) => Promise.race([work, death]);
        await wait(container.ensureStream({ id: streamId, segments: [SEGMENT], contentType: "text/plain", closed: false }));
        const texts: string[] = [];
        kept.set(streamId, texts);
        for (let i = 0; i < 3; i++) {
          await wait(container.append(streamId, { events: pack(`${streamId} ${i}`, ""), contentType: undefined }));
          texts.push(`${streamId} ${i}`);
        }
        if (this.world.chance(0.3)) return;
        kept.delete(streamId);
        await wait(container.deleteStream(streamId));
        deleted.add(streamId);
      },
    });
    this.#lastChecks.push(async (container) => {
      for (const streamId of deleted) if (container.knowsStream(streamId)) this.failures.push(`${streamId} was deleted and is there`);
      for (const [streamId, texts] of kept) {
        const page = await container.read(streamId, 0, { eventsMax: 10, bytesMax: 10_000 });
        const read = page.events.map((event) => Buffer.from(event.data).toString());
        // An append without an answer may be there as well.
        if (read.length > texts.length + 1 || texts.some((text, i) => read[i] !== text))
          this.failures.push(`${streamId}: ${texts} became ${read}`);
      }
    });
  }

  #addReader(): void {
    this.#clients.push({
      name: "reader",
      run: async ({ container, death }) => {
        for (const streamId of STREAMS) {
          const end = container.describe(streamId)?.nextChain ?? 0;
          const from = Math.floor(this.world.random.float() * (end + 1));
          const page = await Promise.race([container.read(streamId, from, { eventsMax: 40, bytesMax: 100_000 }), death]);
          this.#notice(streamId, from, page.events);
        }
      },
    });
  }
}

function pack(text: string, key: string): EventPack {
  const payload = new TextEncoder().encode(text);
  return { count: 1, payload, ends: [payload.length], keys: key, timesMs: undefined };
}
