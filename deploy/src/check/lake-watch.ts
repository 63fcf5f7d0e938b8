import { hasCode } from "@tributary/common/errors";
import { openChunk, type Slice } from "@tributary/common/format/block";
import { payloadOf } from "@tributary/common/format/event-columns";
import { formatSegmentId } from "@tributary/common/names";
import { frameHash, rootHash } from "@tributary/core/container/frame-hash";
import type { AppendBlock, Operation } from "@tributary/core/container/operations";
import { decodeFrame, type Frame } from "@tributary/core/container/wal-frame";
import { type Root, readRoot } from "@tributary/core/tier/root-object";
import { decodeFooter, OBJECT_KIND } from "@tributary/core/tier/tier-object";
import { Places } from "./places.ts";
import { digestOf, type PlainRecord, type Violate } from "./plain.ts";
import { History, HistoryEntry, inGeneration, type Standing, type StoredBlock } from "./wal-history.ts";

/** One log of a container as the judge sees it. */
interface Wal {
  readonly generation: number;
  readonly start: HistoryEntry | undefined;
  /** Of the last record that counts. */
  epoch: number;
  attempt: number;
  hash: string;
  head: HistoryEntry | undefined;
  /** Counting frames that were not truncated yet. */
  readonly stored: Map<number, HistoryEntry>;
  /** How far any checkpoint that ever counted reaches. */
  checkpointed: number;
  /** Below it other records may have taken the places of those that a truncation means. */
  forkedThrough: number;
}

interface Container {
  readonly history: History;
  readonly logs: Map<number, Wal>;
  generation: number;
  /** The nonce of whoever took it over in each epoch. */
  readonly owners: Map<number, string>;
  /** Epochs whose claims the lake did not take, or lost. */
  readonly unclaimed: Set<number>;
  /** Blocks whose records were truncated: the lake alone has them. */
  readonly inLakeAlone: Omit<StoredBlock, "bytes">[];
}

/** Where a log begins whose first records are gone: behind this frame. */
export interface WalStart {
  readonly epoch: number;
  readonly attempt: number;
  readonly hash: string;
}

const WAL_START: WalStart = { epoch: 0, attempt: 0, hash: "0".repeat(32) };
const NO_BYTES = new Uint8Array();
/** What frames before the first fence of all are appended under. */
const NO_NONCE = "0".repeat(16);
const EPOCHS_PER_GENERATION = 2 ** 32;

/**
 * Watches the write-ahead logs and the lake from outside and says what must be readable: the events of the frames that count by
 * rule C2, in the order of the log. It shares the codec with the implementation, and no decision. Give it each WAL record as it lands,
 * or a whole log record by record; and each object as it is stored.
 *
 * A log may go back (`rolledBack`), and a root in the lake begins a container's next generation (rule L5): then frames that counted
 * may count no more, or again.
 */
export class LakeWatch {
  readonly #violate: Violate;
  readonly #identify: (data: Uint8Array) => number;
  readonly #remembers: boolean;
  readonly #containers = new Map<number, Container>();
  /** Records by stream, segment, nonce and ordinal, as the frames had them that ever counted. */
  readonly #records = new Map<string, Places>();
  #current: { readonly of: string; readonly streams: Map<string, CurrentStream> } | undefined;
  readonly committed: Set<number> = new Set();
  readonly tiered: Set<number> = new Set();
  /** Of each counting frame: its operations, and which streams hold which events whose bytes carry an id. */
  onOperation: (operation: Operation, standing: Standing) => void = () => {};
  onEvent: (id: number, streamId: string, standing: Standing) => void = () => {};
  frames = 0;
  voidFrames = 0;

  /**
   * `identify` gives the id that an event's bytes carry, −1 if they carry none. "forgets": of logs that do not go back, so that
   * what was once there need not be kept.
   */
  constructor(violate: Violate, identify: (data: Uint8Array) => number = () => -1, how: "remembers" | "forgets" = "remembers") {
    this.#violate = violate;
    this.#identify = identify;
    this.#remembers = how === "remembers";
  }

  /** For a log that was truncated before the watch began. */
  begins(container: number, start: WalStart): void {
    this.#begin(this.#container(container), 0, start, undefined);
  }

  landed(container: number, seq: number, data: Uint8Array, generation = 0): void {
    const of = this.#container(container);
    const wal = of.logs.get(generation);
    this.frames++;
    if (!wal) {
      this.#violate(5, "no root", `a record landed in generation ${generation} of container ${container}, which nothing began`);
      return;
    }
    let frame: Frame;
    try {
      frame = decodeFrame(data);
    } catch (error) {
      if (!hasCode(error, "FRAME_CORRUPT")) throw error;
      this.#violate(5, "no frame", `WAL ${container} record ${seq} was written damaged: ${error.message}`);
      return;
    }
    this.#judgeOwner(of, container, frame);
    const behind = frame.epoch - wal.epoch || frame.attempt - wal.attempt;
    if (behind < 0 || frame.previousHash !== wal.hash) {
      this.voidFrames++;
      return;
    }
    const { epoch, attempt } = frame;
    const hash = frameHash(data);
    const entry = new HistoryEntry(of.history, this.#remembers ? wal.head : undefined, {
      hash,
      epoch,
      attempt,
      seq,
      nonce: wal.head?.nonce ?? NO_NONCE,
    });
    entry.checkpointed = wal.head?.checkpointed ?? 0;
    entry.confirmed = wal.head?.confirmed;
    wal.epoch = epoch;
    wal.attempt = attempt;
    wal.hash = hash;
    wal.head = entry;
    wal.stored.set(seq, entry);
    if (this.#remembers) {
      of.history.add(entry);
      if (of.generation === generation) of.history.moveTo(entry);
    }
    for (const operation of frame.operations) this.#apply(of, wal, entry, operation);
  }

  /** Rules C1 and L2: an epoch is one owner's, also where frames are void or lost. Names of objects and the order of owners rest on it. */
  #judgeOwner(of: Container, container: number, { epoch, operations }: Frame): void {
    for (const operation of operations) {
      if (operation.type !== "take-over") continue;
      const { nonce } = operation;
      const owner = of.owners.get(epoch);
      if (owner === undefined) of.owners.set(epoch, nonce);
      else if (owner !== nonce && !of.unclaimed.has(epoch))
        this.#violate(
          5,
          "an epoch of two owners",
          `container ${container} was taken over in epoch ${epoch} under ${owner} and under ${nonce}`,
        );
    }
  }

  #apply(of: Container, wal: Wal, entry: HistoryEntry, operation: Operation): void {
    this.onOperation(operation, entry);
    switch (operation.type) {
      case "take-over":
        entry.nonce = operation.nonce;
        break;
      case "tiered": {
        const { seq, hash } = operation.checkpoint.position;
        entry.checkpointed = Math.max(entry.checkpointed, seq);
        wal.checkpointed = Math.max(wal.checkpointed, seq);
        entry.confirmed = of.history.byHash(hash) ?? entry.confirmed;
        break;
      }
      case "register-stream":
      case "delete-stream":
      case "close-stream":
        if (this.#remembers) entry.fates.push(operation);
        break;
      case "append-block":
        this.#append(wal, entry, operation);
    }
  }

  #append({ generation }: Wal, entry: HistoryEntry, operation: AppendBlock): void {
    const ids: number[] = [];
    const { writer, incarnation, lane } = operation.block;
    const { nonce } = entry;
    const place = (streamId: string, segment: string, from: number, count: number) => {
      if (this.#remembers) entry.placed.push({ streamId, segment, from, count });
    };
    for (const decision of operation.decisions) {
      const slice = operation.block.slices.at(decision.slice) as Slice;
      const segment = formatSegmentId(inGeneration(slice.segment, generation));
      const common = { segment, nonce, writer, incarnation, lane };
      if (slice.kind === "gap") {
        const first = slice.first + decision.skip;
        const gap = { first, count: Math.min(slice.count, slice.last - first + 1) };
        this.#add(slice.streamId, { ...common, ordinal: decision.ordinal, number: slice.last, key: "", gap }, NO_BYTES);
        place(slice.streamId, segment, decision.ordinal, 1);
        continue;
      }
      const events = openChunk(operation.block, slice.chunk);
      for (let i = decision.skip; i < slice.count; i++) {
        const row = slice.start + i;
        const payload = payloadOf(events, row);
        const id = this.#identify(payload);
        const key = events.keys[events.keyIndex[row] as number] as string;
        if (id >= 0) {
          ids.push(id);
          this.committed.add(id);
          this.onEvent(id, slice.streamId, entry);
        }
        const number = events.number[row] as number;
        this.#add(slice.streamId, { ...common, ordinal: decision.ordinal + i - decision.skip, number, key }, payload);
      }
      place(slice.streamId, segment, decision.ordinal, slice.count - decision.skip);
    }
    entry.blocks.push({ bytes: operation.block.bytes.slice(), ids, objects: new Set() });
  }

  /** What a snapshot of a log that is taken now needs, so that the log can go back to it. */
  mark(container: number, generation: number): HistoryEntry | undefined {
    return this.#container(container).logs.get(generation)?.head;
  }

  /** A log went back to a state of which `mark` was told; undefined: to its beginning. */
  rolledBack(container: number, generation: number, to: HistoryEntry | undefined): void {
    const of = this.#container(container);
    const wal = of.logs.get(generation);
    if (!wal) return;
    const head = to ?? wal.start;
    wal.forkedThrough = Math.max(wal.forkedThrough, wal.checkpointed);
    wal.head = head;
    wal.epoch = head?.epoch ?? WAL_START.epoch;
    wal.attempt = head?.attempt ?? WAL_START.attempt;
    wal.hash = head?.hash ?? WAL_START.hash;
    wal.stored.clear();
    for (let entry = head; entry && entry !== wal.start; entry = entry.before) wal.stored.set(entry.seq, entry);
    if (of.generation === generation) of.history.goBack(head);
  }

  /** An object was stored with these bytes. */
  stored(name: string, data: Uint8Array): void {
    const [, generation, container, kind] = /^g(\d+)\/c(\d+)\/(blocks\/|root(?:-\d)?$)/.exec(name) ?? [];
    const of = this.#containers.get(Number(container));
    if (!of) return;
    if (kind?.startsWith("root")) {
      this.#raise(of, Number(container), Number(generation), name, data);
      return;
    }
    const object = Buffer.from(data.buffer, data.byteOffset, data.byteLength);
    for (const entry of this.#withBlocks(of)) {
      for (const block of entry.blocks) {
        if (object.indexOf(block.bytes) < 0) continue;
        block.objects.add(name);
        for (const id of block.ids) this.tiered.add(id);
      }
    }
  }

  /** The store was too full to take an object, or lost it. Of an epoch whose claim it was nobody can say any more that it is somebody's. */
  missing(name: string): void {
    const [, generation, container, epoch] = /^g(\d+)\/c(\d+)\/epochs\/(\d+)$/.exec(name) ?? [];
    if (epoch) this.#container(Number(container)).unclaimed.add(Number(generation) * EPOCHS_PER_GENERATION + Number(epoch));
  }

  /** Frames whose blocks an object may hold: also those that a log lost. */
  *#withBlocks(of: Container): Generator<HistoryEntry> {
    const seen = new Set<HistoryEntry>();
    for (const wal of of.logs.values()) for (const entry of wal.stored.values()) seen.add(entry);
    yield* seen;
    for (const entry of of.history.lost) if (!seen.has(entry)) yield entry;
  }

  /** A generation begins with what its root says, once it can be read. */
  #raise(of: Container, container: number, generation: number, name: string, data: Uint8Array): void {
    // The first one that is whole counts.
    const root = of.logs.has(generation) ? undefined : rootIn(name, data);
    if (!root) return;
    const { hash } = root.base.position;
    const base = of.history.byHash(hash);
    if (!base && hash !== WAL_START.hash)
      this.#violate(5, "rootless", `generation ${generation} of container ${container} goes on from a frame that never counted`);
    const nonce = base?.nonce ?? NO_NONCE;
    const begin = { hash: rootHash(data), epoch: generation * EPOCHS_PER_GENERATION, attempt: 0, seq: 0, nonce };
    const start = new HistoryEntry(of.history, base, begin);
    start.confirmed = base;
    of.history.add(start);
    of.generation = Math.max(of.generation, generation);
    if (of.generation === generation) of.history.moveTo(start);
    this.#begin(of, generation, begin, start);
  }

  /** An object was deleted. Invariant 7: nothing that the log let go lay in it alone. */
  deleted(name: string): void {
    for (const [container, of] of this.#containers) {
      for (const { blocks } of this.#withBlocks(of)) for (const { objects } of blocks) objects.delete(name);
      for (const { ids, objects } of of.inLakeAlone) {
        if (!objects.delete(name) || objects.size > 0) continue;
        this.#violate(
          7,
          "gone from the lake",
          `${name} was deleted, and events (${ids.slice(0, 3)} …) of WAL ${container} were in it alone`,
        );
      }
    }
  }

  /** Invariant 7: what goes is in the lake, and a checkpoint that says so is durable. */
  truncating(container: number, first: number, throughSeq: number, generation = 0): void {
    const of = this.#container(container);
    const wal = of.logs.get(generation);
    if (!wal) return;
    if (Math.max(wal.head?.checkpointed ?? 0, wal.forkedThrough) < throughSeq) {
      this.#violate(
        7,
        "truncated early",
        `WAL ${container} loses records through ${throughSeq}, its checkpoint reaches ${wal.head?.checkpointed ?? 0}`,
      );
    }
    for (let seq = first; seq <= throughSeq; seq++) {
      const entry = wal.stored.get(seq);
      wal.stored.delete(seq);
      if (!entry) continue;
      for (const block of entry.blocks) {
        // Whoever truncates may mean the records that were there before the log went back.
        if (block.objects.size === 0 && seq > wal.forkedThrough) {
          this.#violate(
            7,
            "truncated early",
            `WAL ${container} record ${seq} goes, and its events (${block.ids.slice(0, 3)} …) are not in the lake`,
          );
        }
      }
      of.inLakeAlone.push(...entry.blocks.map(({ ids, objects }) => ({ ids, objects })));
      if (entry.blocks.every(({ objects }) => objects.size > 0)) entry.blocks = [];
    }
  }

  /**
   * Invariants 3 and 5: nothing is read that no counting frame holds, at the place where it holds it. Of a watch that began late only
   * what it saw can be judged.
   */
  judgeRead(streamId: string, record: PlainRecord & { readonly digest: number }, who: string): void {
    const frames = this.#records.get(streamId);
    const { segment, nonce = NO_NONCE, ordinal, digest } = record;
    const place = placeOf(segment, nonce);
    if (frames?.at(place, ordinal) === undefined) {
      this.#violate(5, "read what is not durable", `${who} ${segment} ${ordinal}, which no counting frame holds`);
    } else if (!frames.isSame(place, ordinal, digest)) {
      this.#violate(5, "read what does not count", `${who} ${segment} ${ordinal}; the counting frames hold another record there`);
    }
  }

  /** Records that a complete read of the stream must give. */
  countOf(streamId: string): number {
    return this.#streams().get(streamId)?.count ?? 0;
  }

  /** The record is one of those that a complete read of the stream must give now. */
  isCurrent(streamId: string, { segment, nonce = NO_NONCE, ordinal }: PlainRecord): boolean {
    const ranges = this.#streams().get(streamId)?.places.get(placeOf(segment, nonce)) ?? [];
    return ranges.some(([from, to]) => from <= ordinal && ordinal < to);
  }

  hasStream(streamId: string): boolean {
    return this.#streams().get(streamId)?.exists ?? false;
  }

  /** Streams that are there now, by the frames that count. */
  *currentStreams(): Generator<string> {
    for (const [streamId, { exists }] of this.#streams()) if (exists) yield streamId;
  }

  /** The container went on from an earlier state at least once. */
  wentBack(container: number): boolean {
    return this.#containers.get(container)?.history.forked ?? false;
  }

  /** Rule L5: what was in the lake, by a checkpoint that counted, is there for ever, wherever its container goes on. */
  judgeEnd(isExcused: (container: number) => boolean): void {
    for (const [container, { history }] of this.#containers) {
      if (isExcused(container)) continue;
      for (const { seq, epoch, attempt } of history.forsaken) {
        this.#violate(
          1,
          "gone from the lake",
          `container ${container}: what was in the lake through record ${seq} of epoch ${epoch}, attempt ${attempt} is no part of it any more`,
        );
      }
    }
  }

  /** What the frames say that count now. */
  #streams(): Map<string, CurrentStream> {
    const of = [...this.#containers.values()].map(({ history }) => history.newest?.hash).join();
    if (this.#current?.of === of) return this.#current.streams;
    const streams = new Map<string, CurrentStream>();
    for (const { history } of this.#containers.values()) {
      for (const entry of [...history.entries()].reverse()) foldInto(streams, entry);
    }
    this.#current = { of, streams };
    return streams;
  }

  #add(streamId: string, record: PlainRecord & { readonly nonce: string }, data: Uint8Array): void {
    let places = this.#records.get(streamId);
    if (!places) {
      places = new Places();
      this.#records.set(streamId, places);
    }
    places.put(placeOf(record.segment, record.nonce), record.ordinal, digestOf(record, data));
  }

  #begin(of: Container, generation: number, { epoch, attempt, hash }: WalStart, start: HistoryEntry | undefined): void {
    of.logs.set(generation, {
      generation,
      start,
      epoch,
      attempt,
      hash,
      head: start,
      stored: new Map(),
      checkpointed: 0,
      forkedThrough: 0,
    });
  }

  #container(container: number): Container {
    let of = this.#containers.get(container);
    if (!of) {
      of = { history: new History(), logs: new Map(), generation: 0, owners: new Map(), unclaimed: new Set(), inLakeAlone: [] };
      this.#containers.set(container, of);
      this.#begin(of, 0, WAL_START, undefined);
    }
    return of;
  }
}

interface CurrentStream {
  count: number;
  /** Registered, and not deleted since. */
  exists: boolean;
  /** Ordinals by segment and nonce: from, to. */
  readonly places: Map<string, [from: number, to: number][]>;
}

function foldInto(streams: Map<string, CurrentStream>, { placed, fates, nonce }: HistoryEntry): void {
  const stream = (id: string) => {
    let known = streams.get(id);
    if (!known) {
      known = { count: 0, exists: false, places: new Map() };
      streams.set(id, known);
    }
    return known;
  };
  for (const { type, streamId } of fates) {
    if (type === "register-stream") stream(streamId).exists = true;
    else if (type === "delete-stream") stream(streamId).exists = false;
  }
  for (const { streamId, segment, from, count } of placed) {
    const into = stream(streamId);
    into.count += count;
    const place = placeOf(segment, nonce);
    const ranges = into.places.get(place) ?? [];
    into.places.set(place, ranges);
    const last = ranges.at(-1);
    if (last && last[1] === from) last[1] += count;
    else ranges.push([from, from + count]);
  }
}

function placeOf(segment: string, nonce: string): string {
  return `${segment} ${nonce}`;
}

/** undefined if the bytes are those of no root. */
function rootIn(name: string, data: Uint8Array): Root | undefined {
  try {
    return readRoot(decodeFooter(name, OBJECT_KIND.root, data));
  } catch {
    return undefined;
  }
}
