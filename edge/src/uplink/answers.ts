import { hasCode, TributaryError } from "@tributary/common/errors";
import { GAP_REASONS } from "@tributary/common/format/block";
import {
  bytes,
  decodeFields,
  type Fields,
  flag,
  hex,
  integer,
  invalid,
  items,
  lane,
  list,
  natural,
  optional,
  text,
} from "@tributary/common/format/fields";
import { LIMITS } from "@tributary/common/limits";
import { INCARNATION_BYTES, STREAM_ID_BYTES } from "@tributary/common/names";
import type { AppendAnswer, FetchAnswer, HelloAnswer, LevelsAnswer, ResolveAnswer, SliceStatus } from "@tributary/common/uplink-protocol";

// What a core answers is looked at before anything is freed or renumbered by it: it may be of another version, or be none.
// Members that are not known are passed over, as are statuses: newer cores may say more. All throw CORE_ANSWER_INVALID.

/** More than any request can be answered with. */
const ANSWER_BYTES_MAX = 33_554_432;
const OFFSET_CHARS_MAX = 256;
const PROBLEM_CHARS_MAX = 64;

/** `rowsMin`: there are at least so many slices in the block that was sent. */
export function decodeAppendAnswer(payload: Uint8Array, rowsMin: number): AppendAnswer {
  return checked("an append", () => {
    const fields = decodeFields(payload, ANSWER_BYTES_MAX);
    const slices = items(fields["slices"], LIMITS.blockSlicesMax, "slices").map((row) => {
      const [status, number] = pair(row, "a slice");
      return [status as SliceStatus, number] as const;
    });
    if (slices.length < Math.max(1, rowsMin)) throw invalid(`${slices.length} slices are answered of at least ${rowsMin}`);
    return { slices, ...epochOf(fields) };
  });
}

/** `entries`: so many were asked for. */
export function decodeLevelsAnswer(payload: Uint8Array, entries: number): LevelsAnswer {
  return checked("levels", () => {
    const fields = decodeFields(payload, ANSWER_BYTES_MAX);
    const rows = items(fields["entries"], LIMITS.blockSlicesMax, "entries").map((row) => pair(row, "an entry"));
    if (rows.length !== entries) throw invalid(`${rows.length} levels are answered of ${entries}`);
    return { entries: rows, ...epochOf(fields) };
  });
}

export function decodeHelloAnswer(payload: Uint8Array): HelloAnswer {
  return checked("hello", () => {
    const fields = decodeFields(payload, ANSWER_BYTES_MAX);
    const epochs = optional(fields["epochs"], (value) =>
      items(value, LIMITS.containersMax, "epochs").map((epoch) => natural(epoch, "an epoch")),
    );
    return {
      cluster: text(fields["cluster"], LIMITS.nameCharsMax, "cluster"),
      containers: integer(fields["containers"], 1, LIMITS.containersMax, "containers"),
      ...(epochs && { epochs }),
      // Where many copies of one log say hello at once, the core may know of more for a moment.
      siblings: items(fields["siblings"], Number.MAX_SAFE_INTEGER, "siblings")
        .slice(0, LIMITS.incarnationsPerWriterMax)
        .map((id) => hex(id, INCARNATION_BYTES, "a sibling")),
    };
  });
}

/** `count`: so many streams were named. */
export function decodeResolveAnswer(payload: Uint8Array, count: number): ResolveAnswer {
  return checked("resolve", () => {
    const rows = list(decodeFields(payload, ANSWER_BYTES_MAX)["streams"], LIMITS.resolveStreamsMax, "streams");
    if (rows.length !== count) throw invalid(`${rows.length} streams are answered of ${count}`);
    return { streams: rows.map(resolvedStream) };
  });
}

function resolvedStream(fields: Fields): ResolveAnswer["streams"][number] {
  const said = text(fields["problem"], PROBLEM_CHARS_MAX, "problem");
  // A problem of which only newer versions know: nothing can go there.
  const problem = said === "" || said === "unknown" || said === "deleted" ? said : "conflict";
  const id = optional(fields["id"], (value) => hex(value, STREAM_ID_BYTES, "id"));
  const segments = natural(fields["segments"], "segments");
  const containers = items(fields["containers"], LIMITS.segmentsPerStreamMax, "containers").map((container) =>
    integer(container, 0, LIMITS.containersMax - 1, "a container"),
  );
  if (problem === "" && id !== undefined && (segments === 0 || containers.length !== segments)) {
    throw invalid(`a stream of ${segments} segments has ${containers.length} containers`);
  }
  return { id, contentType: text(fields["contentType"], LIMITS.contentTypeCharsMax, "contentType"), segments, containers, problem };
}

export function decodeFetchAnswer(payload: Uint8Array): FetchAnswer {
  return checked("fetch", () => {
    const fields = decodeFields(payload, ANSWER_BYTES_MAX);
    return {
      streamId: hex(fields["streamId"], STREAM_ID_BYTES, "streamId"),
      events: list(fields["events"], Number.MAX_SAFE_INTEGER, "events").map((event) => {
        return {
          key: text(event["key"], LIMITS.routingKeyBytesMax, "key"),
          timeMs: integer(event["timeMs"], Number.MIN_SAFE_INTEGER, Number.MAX_SAFE_INTEGER, "timeMs"),
          incarnation: hex(event["incarnation"], INCARNATION_BYTES, "incarnation"),
          lane: lane(event["lane"]),
          number: natural(event["number"], "number"),
          data: bytes(event["data"], LIMITS.eventBytesMax, "data"),
        };
      }),
      gaps: list(fields["gaps"], Number.MAX_SAFE_INTEGER, "gaps").map((gap) => {
        const reason = GAP_REASONS.find((known) => known === gap["reason"]);
        if (!reason) throw invalid("unknown reason of a gap");
        return {
          incarnation: hex(gap["incarnation"], INCARNATION_BYTES, "incarnation"),
          lane: lane(gap["lane"]),
          first: natural(gap["first"], "first"),
          last: natural(gap["last"], "last"),
          count: natural(gap["count"], "count"),
          reason,
        };
      }),
      nextOffset: text(fields["nextOffset"], OFFSET_CHARS_MAX, "nextOffset"),
      upToDate: flag(fields["upToDate"], "upToDate"),
    };
  });
}

function pair(value: unknown, what: string): readonly [number, number] {
  const [first, second] = items(value, LIMITS.blockSlicesMax, what);
  return [natural(first, what), natural(second, what)];
}

function epochOf(fields: Fields): { epoch?: number } {
  const epoch = optional(fields["epoch"], (value) => natural(value, "epoch"));
  return epoch === undefined ? {} : { epoch };
}

function checked<T>(what: string, read: () => T): T {
  try {
    return read();
  } catch (error) {
    if (!hasCode(error, "INVALID_REQUEST")) throw error;
    const { message } = error as TributaryError;
    throw new TributaryError("CORE_ANSWER_INVALID", `the answer to ${what} cannot be understood: ${message}`, {}, { cause: error });
  }
}
