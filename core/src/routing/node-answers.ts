import { TributaryError } from "@tributary/common/errors";
import { GAP_REASONS } from "@tributary/common/format/block";
import { encodeCbor } from "@tributary/common/format/cbor";
import {
  bytes,
  decodeFields,
  type Fields,
  fieldsOf,
  flag,
  integer,
  invalid,
  items,
  lane,
  natural,
  optional,
  text,
} from "@tributary/common/format/fields";
import { LIMITS } from "@tributary/common/limits";
import { LANES, parseSegmentId } from "@tributary/common/names";
import type { ReadEvent, ReadLevel } from "@tributary/common/stream-service";
import { type AppendAnswer, type LevelsAnswer, SLICE_STATUS, type SliceStatus } from "@tributary/common/uplink-protocol";
import type { ContainerAppendResult, ContainerStreamState } from "../container/container.ts";
import type { AccessPage } from "./container-access.ts";
import { levelOf, nonceRanges, positionOf } from "./positions.ts";

// What the owner of a container answers another node. It is looked at as closely as a request: the other node may be of another version.

const ID_CHARS_MAX = 64;
const STATUSES: ReadonlySet<unknown> = new Set(Object.values(SLICE_STATUS));
/** Texts that a page repeats: segments, writers, incarnations. */
const TEXTS_MAX = 4 * LIMITS.readPageEventsMax;

export const encodeDone = (): Uint8Array => encodeCbor({});

export function encodeAppended({ duplicate, nextChain, ancestry, closed, producerSeq }: ContainerAppendResult): Uint8Array {
  return encodeCbor({ duplicate, nextChain, ancestry, closed, ...(producerSeq !== undefined && { producerSeq }) });
}

export const encodeUplinkAnswer = (answer: AppendAnswer | LevelsAnswer): Uint8Array => encodeCbor(answer);

export const encodeWoken = (woken: boolean): Uint8Array => encodeCbor({ woken });

/**
 * A page: texts that repeat stand once, in a list, and each event is a row
 *   [key, timeMs, segment, ordinal, nonce, writer, incarnation, lane, number, data] with a gap's [first, count, reason] behind it
 * where segment, nonce, writer and incarnation are positions in that list, lane and reason positions in LANES and GAP_REASONS.
 */
export function encodePage({ events, next, upToDate, closed }: AccessPage, level: ReadLevel): Uint8Array {
  const texts = new Map<string, number>();
  const textAt = (value: string): number => {
    const at = texts.get(value) ?? texts.size;
    texts.set(value, at);
    return at;
  };
  const rows = events.map(({ key, timeMs, segment, ordinal, nonce, writer, incarnation, lane, number, data, gap }) => [
    key,
    timeMs,
    textAt(segment),
    ordinal,
    textAt(nonce ?? ""),
    textAt(writer),
    textAt(incarnation),
    LANES.indexOf(lane),
    number,
    data,
    ...(gap ? [gap.first, gap.count, GAP_REASONS.indexOf(gap.reason)] : []),
  ]);
  return encodeCbor({ texts: [...texts.keys()], rows, next, upToDate, closed, level });
}

/** As many states as fit, at least one; the others are asked for again. */
export function encodeStates(states: readonly (ContainerStreamState | undefined)[]): Uint8Array {
  const rows: unknown[] = [];
  let segments = 0;
  for (const state of states) {
    segments += state ? state.segmentLengths.length + state.nonces.length : 0;
    if (rows.length > 0 && segments > LIMITS.nodeDescribeSegmentsMax) break;
    rows.push(state ? stateRow(state) : null);
  }
  return encodeCbor({ states: rows });
}

function stateRow({ firstChain, nextChain, closed, segmentLengths, nonces }: ContainerStreamState): object {
  const segments = segmentLengths.map(({ segment: { generation, epoch, number }, length }) => [generation, epoch, number, length]);
  return { firstChain, nextChain, closed, segments, nonces };
}

export const decodeDone = (payload: Uint8Array): void => answered(payload, () => undefined);

export function decodeAppended(payload: Uint8Array): ContainerAppendResult {
  return answered(payload, (fields) => {
    const producerSeq = optional(fields["producerSeq"], (value) => natural(value, "producerSeq"));
    return {
      duplicate: flag(fields["duplicate"], "duplicate"),
      nextChain: natural(fields["nextChain"], "nextChain"),
      ancestry: nonceRanges(fields["ancestry"]),
      closed: flag(fields["closed"], "closed"),
      ...(producerSeq !== undefined && { producerSeq }),
    };
  });
}

/** `count`: of the rows that were asked for. */
export function decodeBlockAnswer(payload: Uint8Array, count: number): AppendAnswer {
  return answered(payload, (fields) => ({
    slices: pairs(fields["slices"], count, "slices").map(([status, number]): readonly [SliceStatus, number] => {
      if (!STATUSES.has(status)) throw invalid("unknown status of a slice");
      return [status as SliceStatus, number];
    }),
    ...epochOf(fields),
  }));
}

export function decodeLevels(payload: Uint8Array, count: number): LevelsAnswer {
  return answered(payload, (fields) => ({ entries: pairs(fields["entries"], count, "entries"), ...epochOf(fields) }));
}

export function decodeWoken(payload: Uint8Array): boolean {
  return answered(payload, (fields) => flag(fields["woken"], "woken"));
}

/**
 * `level`: what was asked for. A node of an earlier version knows of no levels and gives what is committed.
 * @throws CONTAINER_NOT_OWNED if the page is of another level
 */
export function decodePage(payload: Uint8Array, level: ReadLevel): AccessPage {
  const { given, ...page } = answered(payload, (fields) => {
    const texts = items(fields["texts"], TEXTS_MAX, "texts").map((value) => text(value, ID_CHARS_MAX, "a text"));
    return {
      events: items(fields["rows"], LIMITS.readPageEventsMax, "rows").map((row) => readEvent(row, texts)),
      next: positionOf(fields["next"]),
      upToDate: flag(fields["upToDate"], "upToDate"),
      closed: flag(fields["closed"], "closed"),
      given: levelOf(fields["level"]),
    };
  });
  if (given === level) return page;
  throw new TributaryError("CONTAINER_NOT_OWNED", `the container's owner cannot read at level ${level}: it must be upgraded first`);
}

export function decodeStates(payload: Uint8Array, countMax: number): (ContainerStreamState | undefined)[] {
  return answered(payload, (fields) => {
    const states = items(fields["states"], countMax, "states").map((row) => optional(row, streamState));
    if (states.length === 0) throw invalid("at least one state must be answered");
    return states;
  });
}

/** What is wrong with an answer is a defect of the two nodes together, not of whoever asked. @throws INTERNAL */
function answered<T>(payload: Uint8Array, read: (fields: Fields) => T): T {
  try {
    return read(decodeFields(payload, LIMITS.frameBytesMax));
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause);
    throw new TributaryError("INTERNAL", `another core node answered what this one does not understand: ${why}`, {}, { cause });
  }
}

function pairs(value: unknown, count: number, what: string): (readonly [number, number])[] {
  const rows = items(value, count, what);
  if (rows.length !== count) throw invalid(`${what} must have as many entries as were asked for`);
  return rows.map((row) => {
    const pair = items(row, 2, what);
    return [natural(pair[0], what), natural(pair[1], what)];
  });
}

function epochOf(fields: Fields): { epoch?: number } {
  const epoch = optional(fields["epoch"], (value) => natural(value, "epoch"));
  return epoch === undefined ? {} : { epoch };
}

function streamState(value: unknown): ContainerStreamState {
  const fields = fieldsOf(value, "a state");
  const segmentLengths = items(fields["segments"], LIMITS.nodeDescribeSegmentsMax, "segments").map((row) => {
    const [generation, epoch, number, length] = items(row, 4, "a segment").map((part) => natural(part, "a number of a segment"));
    if (length === undefined) throw invalid("a segment has four numbers");
    return { segment: { generation: generation as number, epoch: epoch as number, number: number as number }, length };
  });
  return {
    firstChain: natural(fields["firstChain"], "firstChain"),
    nextChain: natural(fields["nextChain"], "nextChain"),
    closed: flag(fields["closed"], "closed"),
    segmentLengths,
    nonces: nonceRanges(fields["nonces"]),
  };
}

function readEvent(value: unknown, texts: readonly string[]): ReadEvent {
  const row = items(value, 13, "a row");
  const textAt = (at: unknown): string => {
    const found = texts[natural(at, "the position of a text")];
    if (found === undefined) throw invalid("a row names a text that is not there");
    return found;
  };
  const segment = textAt(row[2]);
  parseSegmentId(segment);
  const timeMs = row[1];
  if (typeof timeMs !== "number") throw invalid("a time must be a number");
  const nonce = textAt(row[4]);
  const gap = row.length > 10 && {
    first: natural(row[10], "first of a gap"),
    count: natural(row[11], "count of a gap"),
    reason: GAP_REASONS[integer(row[12], 0, GAP_REASONS.length - 1, "reason")] ?? "corrupt",
  };
  return {
    key: text(row[0], LIMITS.routingKeyBytesMax, "key"),
    timeMs,
    segment,
    ordinal: natural(row[3], "ordinal"),
    ...(nonce !== "" && { nonce }),
    writer: textAt(row[5]),
    incarnation: textAt(row[6]),
    lane: lane(LANES[natural(row[7], "lane")]),
    number: natural(row[8], "number"),
    data: bytes(row[9], LIMITS.eventBytesMax, "data"),
    ...(gap && { gap }),
  };
}
