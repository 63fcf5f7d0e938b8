import { readFileSync } from "node:fs";
import { decodeBlock } from "@tributary/common/format/block";
import { encodeCbor } from "@tributary/common/format/cbor";
import type { Id } from "@tributary/common/names";
import { joined } from "@tributary/common/object-data";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { WalPosition } from "../container/counting.ts";
import { DecidedState } from "../container/decided.ts";
import { Durable, emptyTier, NO_CHECKPOINT } from "../container/durable.ts";
import { buildFrame, type QueueItem } from "../container/frame-builder.ts";
import type { Operation } from "../container/operations.ts";
import { OwnWriter } from "../container/own-batch.ts";
import type { StreamOrigin } from "../container/stream-origin.ts";
import { block, numbered, SEGMENT } from "../container/testing/gateway.ts";
import { applyFooter, buildFlushObject, type FlushObject } from "./flush-object.ts";
import { readSnapshot, snapshotRecord } from "./snapshot.ts";
import { readFooter } from "./tier-footer.ts";
import { decodeFooter, encodeFooterOnly, OBJECT_KIND } from "./tier-object.ts";

const STREAMS: readonly Id[] = ["1".repeat(32), "2".repeat(32), "3".repeat(32)];
const OWNER = { container: 4, epoch: 2, attempt: 1 };
const SEGMENTS = [SEGMENT, { ...SEGMENT, number: 1 }];

type Action =
  | { readonly do: "register" | "delete" | "close"; readonly stream: number }
  | { readonly do: "take-over"; readonly nonce: string }
  | { readonly do: "own"; readonly stream: number; readonly producer: number; readonly seq: string; readonly key: string }
  | {
      readonly do: "block";
      readonly stream: number;
      readonly writer: number;
      readonly from: number;
      readonly to: number;
      readonly segment: number;
    };

const stream = fc.nat(STREAMS.length - 1);
const action: fc.Arbitrary<Action> = fc.oneof(
  { weight: 2, arbitrary: fc.record({ do: fc.constant("register" as const), stream }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("take-over" as const), nonce: fc.constantFrom("0a".repeat(8), "0b".repeat(8)) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constantFrom("delete" as const, "close" as const), stream }) },
  {
    weight: 4,
    arbitrary: fc.record({
      do: fc.constant("own" as const),
      stream,
      producer: fc.nat(3),
      seq: fc.constantFrom("", "a", "b"),
      key: fc.constantFrom("x", "y", "z"),
    }),
  },
  {
    weight: 6,
    arbitrary: fc
      .record({
        do: fc.constant("block" as const),
        stream,
        writer: fc.nat(1),
        from: fc.integer({ min: 1, max: 8 }),
        to: fc.nat(4),
        segment: fc.nat(1),
      })
      .map((entry) => ({ ...entry, to: entry.from + entry.to })),
  },
);

/** A container without its effects: items are decided, framed and durable at once. */
class Machine {
  readonly durable = new Durable(NO_CHECKPOINT, emptyTier());
  readonly #decided = new DecidedState(this.durable.state);
  readonly #writer = new OwnWriter("f".repeat(32), "e".repeat(16));
  readonly #producerSeqs = new Map<string, number>();
  readonly #tellsOrigins: boolean;

  constructor(tellsOrigins = true) {
    this.#tellsOrigins = tellsOrigins;
  }

  do(action: Action): void {
    if (action.do === "take-over") {
      this.#durable([{ type: "take-over", nonce: action.nonce, endsGeneration: false }]);
      return;
    }
    const streamId = STREAMS[action.stream] as Id;
    const waiting = { bytes: 100, resolve: () => {}, reject: () => {} };
    const control = (decide: Extract<QueueItem, { kind: "control" }>["decide"]): QueueItem => ({ kind: "control", decide, ...waiting });
    if (action.do === "register") {
      const origin = { name: { scope: "plant", stream: `s${action.stream}` }, createdAtMs: 1_795_162_530_250, containers: [4, 4] };
      const operation = {
        type: "register-stream",
        streamId,
        segments: SEGMENTS,
        contentType: "t/p",
        closed: false,
        ...this.#origin(origin),
      } as const;
      this.#frame(control((decided) => (decided.head(streamId) ? undefined : operation)));
    } else if (action.do === "delete") {
      this.#producerSeqs.clear();
      this.#frame(control((decided) => (decided.head(streamId) ? { type: "delete-stream", streamId } : undefined)));
    } else if (action.do !== "block") {
      const data = new TextEncoder().encode("data");
      const name = action.do === "own" ? `${streamId}${action.producer}` : "";
      const seq = this.#producerSeqs.get(name) ?? 0;
      const own = action.do === "own" && { count: 1, payload: data, ends: [4], keys: action.key, timesMs: 5 };
      const item: QueueItem = {
        kind: "own",
        streamId,
        arrivedAtMs: 1,
        request: {
          events: own || undefined,
          contentType: undefined,
          close: action.do === "close",
          ...(action.do === "own" && action.producer > 0 ? { producer: { id: `p${action.producer}`, epoch: 0, seq } } : {}),
          ...(action.do === "own" && action.seq !== "" ? { streamSeq: action.seq } : {}),
        },
        ...waiting,
        resolve: () => this.#producerSeqs.set(name, seq + 1),
      };
      this.#frame(item);
    } else {
      const writer = { writer: String(action.writer).repeat(32), incarnation: "a".repeat(16), lane: "live" } as const;
      const segment = SEGMENTS[action.segment] ?? SEGMENT;
      const value = block(writer, [{ streamId, segment, previous: action.from - 1, events: numbered(action.from, action.to) }]);
      this.#frame({ kind: "block", block: value, ...waiting });
    }
  }

  #frame(item: QueueItem): void {
    const { position } = this.durable;
    const frame = position.number + 1;
    const built = buildFrame([item], { decided: this.#decided, writer: this.#writer, frame, bytesTarget: 1, bytesMax: 1_000_000 });
    if (built.operations.length > 0) this.#durable(built.operations);
    for (const answer of built.answers) answer.deliver();
  }

  #durable(operations: readonly Operation[]): void {
    const { position } = this.durable;
    const frame = position.number + 1;
    const next: WalPosition = { seq: position.seq + 1, epoch: 2, attempt: 1, number: frame, hash: String(frame % 10).repeat(32) };
    this.durable.apply(next, operations);
    this.#decided.settle(frame);
  }

  #origin(origin: StreamOrigin): { origin?: StreamOrigin } {
    return this.#tellsOrigins ? { origin } : {};
  }

  /** `between` happens after each step of the flush. */
  flush(between: () => void = () => {}): FlushObject {
    const { state, position, unflushed, lastObject } = this.durable;
    const steps = buildFlushObject(OWNER, state, position, unflushed, lastObject, 1);
    for (;;) {
      const step = steps.next();
      if (step.done) return step.value;
      between();
    }
  }
}

const bytesOf = (object: FlushObject) => joined(object.parts);
const footerOf = (object: FlushObject) =>
  readFooter(decodeFooter("test", OBJECT_KIND.blocks, bytesOf(object).subarray(-object.ref.footerBytes)));

describe("objects of the tier", () => {
  it("carry the state: what their footers and snapshots say is what the frames made of it", () => {
    fc.assert(
      fc.property(
        fc.array(fc.array(action, { minLength: 1, maxLength: 12 }), { minLength: 1, maxLength: 6 }),
        fc.nat(6),
        (rounds, snapshotAt) => {
          const machine = new Machine();
          const { durable } = machine;
          let mirror = emptyTier();
          rounds.forEach((actions, round) => {
            for (const entry of actions) machine.do(entry);
            if (!durable.unflushed.worthFlushing) return;
            const object = machine.flush();
            const footer = footerOf(object);
            const snapshot = round === snapshotAt && snapshotRecord(4, durable.state, durable.position, durable.index, object);
            durable.flushed(object, durable.checkpoint, durable.state.events);
            for (const stream of footer.deleted) mirror.index.delete(footer.streams[stream] as Id);
            mirror.index.add(object.ref, applyFooter(mirror.state, footer));
            if (snapshot) {
              const encoded = encodeFooterOnly(OBJECT_KIND.snapshot, encodeCbor(snapshot)).bytes;
              const read = readSnapshot(decodeFooter("test", OBJECT_KIND.snapshot, encoded));
              expect(read).toMatchObject({ container: 4, position: durable.position });
              mirror = read;
            }
            expect(mirror.state).toEqual(durable.state);
            expect(mirror.index).toEqual(durable.index);
            expect(durable.unflushed.bytes).toBe(0);
            // The order in which producers were used decides which of them is forgotten.
            for (const [id, state] of durable.state.streams) {
              expect([...(mirror.state.streams.get(id)?.producers.keys() ?? [])]).toEqual([...state.producers.keys()]);
            }
          });
        },
      ),
      { numRuns: 150 },
    );
  });

  it("are the same whatever is appended, closed or deleted while they are laid out", () => {
    const actions = fc.array(action, { minLength: 1, maxLength: 12 });
    fc.assert(
      fc.property(actions, actions, (before, meanwhile) => {
        const [quiet, busy] = [new Machine(), new Machine()];
        for (const entry of before) for (const machine of [quiet, busy]) machine.do(entry);
        const left = meanwhile.values();
        const object = busy.flush(() => {
          const { value } = left.next();
          if (value) busy.do(value);
        });
        expect(footerOf(object)).toEqual(footerOf(quiet.flush()));
        expect(object.numbers.lasts).toEqual(quiet.flush().numbers.lasts);
      }),
      { numRuns: 150 },
    );
  });

  it("hold whole blocks where the footer says", () => {
    const machine = new Machine();
    machine.do({ do: "register", stream: 0 });
    machine.do({ do: "block", stream: 0, writer: 0, from: 1, to: 3, segment: 0 });
    machine.do({ do: "block", stream: 0, writer: 0, from: 3, to: 6, segment: 0 });
    const object = machine.flush();
    const footer = footerOf(object);
    expect(footer).toMatchObject({
      container: 4,
      epoch: 2,
      attempt: 1,
      from: 1,
      previous: undefined,
      events: 6,
      position: machine.durable.position,
    });
    expect(footer.extents).toMatchObject({ k: [0, 1], o: [0, 3], c: [0, 3], m: [3, 3] });
    const [at = 0, length = 0] = footer.blocks.slice(2);
    expect(decodeBlock(bytesOf(object).subarray(at, at + length)).slices.at(0)).toMatchObject({ first: 3, last: 6 });
  });

  const golden = (name: string) => new Uint8Array(readFileSync(new URL(`./golden/${name}`, import.meta.url)));
  const live = (machine: Machine) => {
    machine.do({ do: "register", stream: 0 });
    machine.do({ do: "register", stream: 1 });
    machine.do({ do: "block", stream: 0, writer: 0, from: 1, to: 3, segment: 1 });
    machine.do({ do: "own", stream: 1, producer: 1, seq: "a", key: "x" });
    machine.do({ do: "close", stream: 1 });
    machine.do({ do: "delete", stream: 0 });
    machine.do({ do: "register", stream: 2 });
    machine.do({ do: "block", stream: 2, writer: 1, from: 1, to: 2, segment: 0 });
    return machine;
  };
  const snapshotOf = ({ durable: { state, position, index } }: Machine, object: FlushObject) =>
    encodeFooterOnly(OBJECT_KIND.snapshot, encodeCbor(snapshotRecord(4, state, position, index, object))).bytes;

  it("are read as they were written in version 1", () => {
    const machine = live(new Machine(false));
    const object = machine.flush();
    const stored = readFooter(decodeFooter("golden", OBJECT_KIND.blocks, golden("tier-object-v1.bin")));
    expect(stored).toEqual({ ...footerOf(object), nonces: [] });
    const snapshot = readSnapshot(decodeFooter("golden", OBJECT_KIND.snapshot, golden("tier-snapshot-v1.bin")));
    const now = readSnapshot(decodeFooter("now", OBJECT_KIND.snapshot, snapshotOf(machine, object)));
    now.state.tombstones.clear();
    expect({ ...snapshot, index: snapshot.index.runs }).toEqual({ ...now, index: now.index.runs });
  });

  it("are read and written as they were since they tell of take-overs, deletions and names", () => {
    const machine = new Machine();
    machine.do({ do: "take-over", nonce: "0a".repeat(8) });
    live(machine);
    machine.do({ do: "take-over", nonce: "0b".repeat(8) });
    machine.do({ do: "block", stream: 2, writer: 1, from: 3, to: 3, segment: 0 });
    const object = machine.flush();
    expect(Buffer.compare(bytesOf(object), golden("tier-object-v1-nonces.bin"))).toBe(0);
    machine.durable.state.raise(2);
    expect(Buffer.compare(snapshotOf(machine, object), golden("tier-snapshot-v1-nonces.bin"))).toBe(0);
  });

  it("are refused with any bit of the footer changed", () => {
    const machine = new Machine();
    machine.do({ do: "register", stream: 0 });
    machine.do({ do: "block", stream: 0, writer: 0, from: 1, to: 3, segment: 0 });
    const object = machine.flush();
    const end = bytesOf(object).subarray(-object.ref.footerBytes);
    for (let bit = 0; bit < end.length * 8; bit++) {
      const damaged = Uint8Array.from(end);
      damaged[bit >> 3] = (damaged[bit >> 3] as number) ^ (1 << (bit & 7));
      expect(() => decodeFooter("x", OBJECT_KIND.blocks, damaged)).toThrow(/object x/);
    }
  });
});
