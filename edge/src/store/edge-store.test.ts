import { systemClock } from "@tributary/common/clock";
import { bytesToHex, type Id } from "@tributary/common/names";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { EdgeStore, StateChange, UplinkUnit } from "./edge-store.ts";
import { createEdgeStore } from "./log-edge-store.ts";
import { createStream, GatewayModel, mapStream, type SampleEvent, seededRandom } from "./testing/gateway-model.ts";
import { MemoryDisk, MemoryLog } from "./testing/memory-log.ts";
import { ModelCore } from "./testing/model-core.ts";

const KEYS = ["", "a", "b", "engine-1", "engine-2", "kø"];

function storeOver(disk: MemoryDisk, seed: number): EdgeStore {
  return createEdgeStore({
    log: async () => ({ log: new MemoryLog(disk), report: { recordsQuarantined: 0, quarantinePath: "" } }),
    random: seededRandom(seed),
    clock: systemClock,
    // Small, so that there are many checkpoints.
    checkpointBytesMin: 6_000,
  });
}

/** A gateway with its disk, its uplink and a core, driven step by step. */
class Site {
  readonly disk = new MemoryDisk();
  readonly gateway = new GatewayModel();
  readonly core = new ModelCore();
  readonly #seed: number;
  #restarts = 0;
  store: EdgeStore;
  units: UplinkUnit[] = [];
  readonly streams: { id: Id; segments: number; mapped: boolean }[] = [];
  #serial = 0;

  constructor(seed: number) {
    this.#seed = seed;
    this.store = storeOver(this.disk, seed);
  }

  async open(): Promise<void> {
    this.gateway.began(await this.store.open());
  }

  async restart(): Promise<void> {
    this.units = [];
    this.store = storeOver(this.disk, this.#seed + ++this.#restarts * 7919);
    await this.open();
  }

  id(n: number): Id {
    return bytesToHex(seededRandom(this.#seed * 31 + n + 1).bytes(16));
  }

  async create(segments: number): Promise<void> {
    const id = this.id(this.streams.length);
    this.streams.push({ id, segments, mapped: false });
    await this.gateway.commit(this.store, [], [createStream(id, segments)]);
  }

  /** Registers a stream at the core, under its own id or another, cut as asked or otherwise. */
  mapping(n: number, otherId: boolean, segments: number): StateChange[] {
    const stream = this.streams[n % this.streams.length];
    if (!stream || stream.mapped) return [];
    stream.mapped = true;
    const id = otherId ? this.id(1000 + (n % this.streams.length)) : stream.id;
    const containers = Array.from({ length: segments }, (_, i) => (n + i) % 3);
    this.core.register(id, segments, containers);
    return [mapStream(stream.id, { id, segments, containers })];
  }

  events(picks: readonly { stream: number; key: number; size: number }[]): SampleEvent[] {
    if (this.streams.length === 0) return [];
    return picks.map(({ stream, key, size }) => ({
      stream: this.streams[stream % this.streams.length]?.id ?? "",
      key: KEYS[key % KEYS.length] as string,
      text: `${this.#serial++}:${"x".repeat(size)}`,
    }));
  }

  /** Takes units, and delivers the blocks of the first few. */
  async send(bytesMax: number, deliver: number, free: boolean): Promise<number> {
    const units = await this.store.uplinkNext(bytesMax);
    this.units.push(...units);
    const delivered = this.units.splice(0, deliver);
    for (const unit of delivered) for (const block of unit.blocks) this.core.append(block);
    const last = delivered.at(-1);
    if (last && free) await this.store.uplinkFree(last.unit);
    // Delivered but not freed: only a rewind brings them again.
    else if (last) await this.rewind();
    return units.length;
  }

  async rewind(): Promise<void> {
    this.units = [];
    await this.store.uplinkRewind();
  }

  async drain(): Promise<void> {
    for (let n = 0; n < this.streams.length; n++) {
      const changes = this.mapping(n, n % 2 === 1, (n % 3) + 1);
      if (changes.length > 0) await this.gateway.commit(this.store, [], changes);
    }
    await this.rewind();
    while ((await this.send(1_000_000, 1_000, true)) > 0);
  }

  coreStream(id: Id) {
    const mapping = [...this.core.streams.keys()];
    const n = this.streams.findIndex((stream) => stream.id === id);
    return this.core.streams.get(mapping.includes(id) ? id : this.id(1000 + n));
  }

  /** Every acknowledged event is at the core exactly once, in order for each key. */
  checkCore(): void {
    for (const [id, acked] of this.gateway.acked) {
      const events = this.coreStream(id)?.events ?? [];
      for (const key of KEYS) {
        const expected = acked.filter((event) => event.key === key).map((event) => event.text);
        expect(events.filter((event) => event.key === key).map((event) => event.text)).toEqual(expected);
      }
    }
  }

  async checkLocal(): Promise<void> {
    for (const [id, acked] of this.gateway.acked) {
      const texts: string[] = [];
      let ordinal = 0;
      for (;;) {
        const page = await this.store.readLocal(id, ordinal, { eventsMax: 7, bytesMax: 500 });
        if (page.events.length === 0) break;
        page.events.forEach((event, i) => {
          expect(event.ordinal).toBe(ordinal + i);
        });
        texts.push(...page.events.map((event) => Buffer.from(event.data).toString()));
        ordinal = page.nextOrdinal;
      }
      expect(texts).toEqual(acked.map((event) => event.text));
    }
  }
}

const pick = fc.record({ stream: fc.nat(5), key: fc.nat(5), size: fc.oneof(fc.nat(40), fc.integer({ min: 0, max: 3_000 })) });
const step = fc.oneof(
  { weight: 2, arbitrary: fc.record({ type: fc.constant("create" as const), segments: fc.integer({ min: 1, max: 4 }) }) },
  {
    weight: 10,
    arbitrary: fc.record({
      type: fc.constant("commit" as const),
      picks: fc.array(pick, { minLength: 1, maxLength: 20 }),
      lane: fc.constantFrom("live" as const, "live" as const, "backlog" as const),
      map: fc.option(fc.record({ stream: fc.nat(5), otherId: fc.boolean(), segments: fc.integer({ min: 1, max: 4 }) })),
    }),
  },
  {
    weight: 6,
    arbitrary: fc.record({
      type: fc.constant("send" as const),
      bytesMax: fc.integer({ min: 1, max: 20_000 }),
      deliver: fc.nat(4),
      free: fc.boolean(),
    }),
  },
  { weight: 2, arbitrary: fc.record({ type: fc.constant("rewind" as const) }) },
  { weight: 2, arbitrary: fc.record({ type: fc.constant("restart" as const) }) },
);
type Step = typeof step extends fc.Arbitrary<infer T> ? T : never;

async function take(site: Site, next: Step): Promise<void> {
  if (next.type === "create") return site.streams.length < 6 ? site.create(next.segments) : undefined;
  if (next.type === "send") return void (await site.send(next.bytesMax, next.deliver, next.free));
  if (next.type === "rewind") return site.rewind();
  if (next.type === "restart") return site.restart();
  const changes = next.map ? site.mapping(next.map.stream, next.map.otherId, next.map.segments) : [];
  // Lanes are ordered each for itself: one lane a stream, so that order within a key can be checked.
  const events = site
    .events(next.picks)
    .filter((event) => (Number.parseInt(event.stream.slice(0, 2), 16) % 2 === 0) === (next.lane === "live"));
  await site.gateway.commit(site.store, events, changes, next.lane);
}

describe("edge store", () => {
  it("brings every event to the core exactly once, whatever happens in between", async () => {
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: 1, max: 1 << 30 }), fc.array(step, { minLength: 5, maxLength: 60 }), async (seed, steps) => {
        const site = new Site(seed);
        await site.open();
        await site.create(1);
        for (const next of steps) await take(site, next);
        await site.drain();
        site.checkCore();
        const usage = await site.store.usage();
        expect(usage).toMatchObject({ eventsHeld: 0, eventsUnsent: 0, recordsQuarantined: 0, eventsSkipped: 0 });
      }),
      { numRuns: 150 },
    );
  });

  it("reads back its own events in order, from any ordinal on, before and after restarts", async () => {
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: 1, max: 1 << 30 }), fc.array(step, { minLength: 5, maxLength: 40 }), async (seed, steps) => {
        const site = new Site(seed);
        await site.open();
        await site.create(2);
        for (const next of steps) if (next.type !== "send") await take(site, next);
        await site.checkLocal();
        await site.restart();
        await site.checkLocal();
        const acked = [...site.gateway.acked.values()].reduce((sum, events) => sum + events.length, 0);
        expect(await site.store.usage()).toMatchObject({ eventsHeld: acked, eventsUnsent: acked });
      }),
      { numRuns: 60 },
    );
  });
});
