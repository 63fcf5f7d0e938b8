import { systemClock } from "@tributary/common/clock";
import { bytesToHex, type Id } from "@tributary/common/names";
import { expect } from "vitest";
import type { EdgeStore, EdgeStream, LocalEvent, OpenedEdge, StateChange, UplinkUnit } from "../edge-store.ts";
import { createEdgeStore } from "../log-edge-store.ts";
import { createStream, GatewayModel, mapStream, type NumberedEvent, type SampleEvent, seededRandom } from "./gateway-model.ts";
import { MemoryDisk, MemoryLog } from "./memory-log.ts";
import { type CoreGap, type CoreStream, ModelCore } from "./model-core.ts";

const KEYS: readonly string[] = ["", "a", "b", "engine-1", "engine-2", "kø"];

export function storeOver(disk: MemoryDisk, seed: number): EdgeStore {
  return createEdgeStore({
    log: async () => ({ log: new MemoryLog(disk), report: { recordsQuarantined: 0, quarantinePath: "" } }),
    random: seededRandom(seed),
    clock: systemClock,
    // Small, so that there are many checkpoints.
    checkpointBytesMin: 6_000,
  });
}

/** A gateway with its disk, its uplink and a core, driven step by step. */
export class Site {
  readonly disk: MemoryDisk = new MemoryDisk();
  readonly gateway: GatewayModel = new GatewayModel();
  readonly core: ModelCore = new ModelCore();
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
    await this.#began(this.store.open());
  }

  /** What a dead process leaves behind is taken up by another. */
  async restart(): Promise<void> {
    this.store = storeOver(this.disk, this.#seed + ++this.#restarts * 7919);
    await this.open();
  }

  async reopen(): Promise<void> {
    await this.#began(this.store.reopen());
  }

  async #began(opening: Promise<OpenedEdge>): Promise<void> {
    this.units = [];
    const opened = await opening;
    this.gateway.began(opened);
    // What was not acknowledged may be gone: do it again.
    for (const stream of this.streams) {
      const known = opened.state.streams.find(({ id }) => id === stream.id);
      if (!known) await this.gateway.commit(this.store, [], [createStream(stream.id, stream.segments)]);
      stream.mapped = known?.mapping !== undefined;
    }
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
    const wanted = Array.from({ length: segments }, (_, i) => (n + i) % 3);
    const { containers } = this.core.register(id, segments, wanted);
    return [mapStream(stream.id, { id, segments: containers.length, containers })];
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

  /** Drops the oldest until the log takes at most so many bytes. Units that are out are void. */
  async drop(bytesTarget: number): Promise<void> {
    const before = (await this.store.usage()).eventsHeld;
    const report = await this.store.dropOldest(bytesTarget);
    expect((await this.store.usage()).eventsHeld).toBe(before - report.eventsDropped);
    this.units = [];
  }

  /** The stream as a restart finds it. */
  async snapshot(id: Id): Promise<EdgeStream | undefined> {
    await this.restart();
    return this.gateway.opened?.state.streams.find((stream) => stream.id === id);
  }

  async drain(): Promise<void> {
    for (let n = 0; n < this.streams.length; n++) {
      const changes = this.mapping(n, n % 2 === 1, (n % 3) + 1);
      if (changes.length > 0) await this.gateway.commit(this.store, [], changes);
    }
    await this.rewind();
    while ((await this.send(1_000_000, 1_000, true)) > 0);
  }

  coreStream(id: Id): CoreStream | undefined {
    const mapping = [...this.core.streams.keys()];
    const n = this.streams.findIndex((stream) => stream.id === id);
    return this.core.streams.get(mapping.includes(id) ? id : this.id(1000 + n));
  }

  /**
   * Every acknowledged event is at the core exactly once, in order for each key, and nothing else is, but what was on its way to
   * the log as it failed. Where `withGaps`, gap records may stand for events; only what is missing without one is wrong.
   */
  checkCore({ withGaps = false }: { withGaps?: boolean } = {}): void {
    for (const { id } of this.streams) {
      const acked = this.gateway.acked.get(id) ?? [];
      const events = this.coreStream(id)?.events ?? [];
      const texts = new Set(events.map((event) => event.text));
      expect(texts.size).toBe(events.length);
      const known = new Set(acked.map((event) => event.text));
      for (const text of texts) if (!known.has(text)) expect(this.gateway.unanswered).toContain(text);
      for (const key of KEYS) {
        const expected = acked.filter((event) => event.key === key && !(withGaps && !texts.has(event.text) && this.gapAtCore(id, event)));
        const found = events.filter((event) => event.key === key && known.has(event.text));
        expect(found.map((event) => event.text)).toEqual(expected.map((event) => event.text));
      }
    }
  }

  gapAtCore(id: Id, { incarnation, lane, number }: NumberedEvent): CoreGap | undefined {
    return this.coreStream(id)?.gaps.find(
      (gap) => gap.incarnation === incarnation && gap.lane === lane && number >= gap.first && number <= gap.last,
    );
  }

  /** Reads all of a stream: each ordinal is there once, as an event or in a gap. */
  async readAll(id: Id, fromOrdinal = 0): Promise<LocalEvent[]> {
    const events: LocalEvent[] = [];
    for (let ordinal = fromOrdinal; ; ) {
      const page = await this.store.readLocal(id, ordinal, { eventsMax: 7, bytesMax: 500 });
      if (page.events.length === 0) return events;
      for (const event of page.events) {
        expect(event.ordinal).toBe(ordinal);
        ordinal += event.gap?.count ?? 1;
      }
      expect(page.nextOrdinal).toBe(ordinal);
      events.push(...page.events);
    }
  }

  async checkLocal(): Promise<void> {
    for (const [id, acked] of this.gateway.acked) {
      const texts = (await this.readAll(id)).map((event) => Buffer.from(event.data).toString());
      expect(texts).toEqual(acked.map((event) => event.text));
    }
  }
}
