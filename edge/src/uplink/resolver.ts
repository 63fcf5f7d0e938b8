import { TributaryError } from "@tributary/common/errors";
import { encodeCbor } from "@tributary/common/format/cbor";
import { LIMITS } from "@tributary/common/limits";
import { type Id, newId, STREAM_ID_BYTES, type StreamName, suffixedName } from "@tributary/common/names";
import type { Bus } from "@tributary/common/ports/bus";
import type { Random } from "@tributary/common/random";
import { type ResolveAnswer, type ResolveRequest, UPLINK_SUBJECTS } from "@tributary/common/uplink-protocol";
import type { StateChange, StreamMapping } from "../store/edge-store.ts";
import { decodeResolveAnswer } from "./answers.ts";

/** A stream of this gateway that the core has to know. */
export interface UnresolvedStream {
  readonly id: Id;
  readonly name: StreamName;
  readonly contentType: string;
  readonly segments: number;
  readonly createdAtMs: number;
  /** The core's stream that takes no more events: it must be another one. */
  readonly avoid?: Id;
}

export interface ResolveResult {
  readonly changes: readonly Extract<StateChange, { type: "map-stream" }>[];
  /** Streams whose events go to another name, because theirs is taken, or was deleted or closed at the core (rule W8). */
  readonly quarantined: readonly { readonly id: Id; readonly name: StreamName; readonly to: StreamName; readonly problem: string }[];
}

export interface ResolverOptions {
  readonly bus: Bus;
  readonly cluster: string;
  readonly timeoutMs: number;
  readonly random: Random;
  /** True if another stream of this gateway is mapped to it: two may not share one, they number alike. */
  readonly isTaken: (coreId: Id, streamId: Id) => boolean;
}

type Wish = ResolveRequest["streams"][number];

/** Names tried for one quarantine: the plain one, numbered ones, and one that no other stream can have. */
const QUARANTINE_NAMES_MAX = 4;

/**
 * Registers streams at the core. Asking again is harmless: a stream is found again by its name and its id.
 * @throws what the bus throws; STREAM_UNKNOWN if the core refuses a stream altogether
 */
export async function resolveStreams(streams: readonly UnresolvedStream[], writer: Id, options: ResolverOptions): Promise<ResolveResult> {
  const changes: ResolveResult["changes"][number][] = [];
  const quarantined: ResolveResult["quarantined"][number][] = [];
  const taken = new Set<Id>();
  for (let at = 0; at < streams.length; at += LIMITS.resolveStreamsMax) {
    let open: { stream: UnresolvedStream; wish: Wish; problem: string }[] = streams
      .slice(at, at + LIMITS.resolveStreamsMax)
      .map((stream) => ({ stream, wish: wishFor(stream, stream.id, stream.name), problem: "" }));
    for (let attempt = 0; open.length > 0; attempt++) {
      if (attempt > QUARANTINE_NAMES_MAX)
        throw new TributaryError("STREAM_UNKNOWN", "the core takes a stream under no name", { stream: open[0]?.stream.name.stream ?? "" });
      const answer = await ask(
        open.map(({ wish }) => wish),
        options,
      );
      const refused: typeof open = [];
      open.forEach(({ stream, wish, problem }, i) => {
        const row = answer.streams[i];
        const mapping = row && toMapping(row);
        if (mapping && mapping.id !== stream.avoid && !taken.has(mapping.id) && !options.isTaken(mapping.id, stream.id)) {
          taken.add(mapping.id);
          changes.push({ type: "map-stream", id: stream.id, mapping });
          if (attempt > 0) quarantined.push({ id: stream.id, name: stream.name, to: wish.name, problem });
          return;
        }
        const to = quarantineName(stream, writer, attempt);
        refused.push({
          stream,
          wish: wishFor(stream, newId(options.random, STREAM_ID_BYTES), to),
          problem: problem || row?.problem || "conflict",
        });
      });
      open = refused;
    }
  }
  return { changes, quarantined };
}

/**
 * "<stream>.quarantine-<writer>", cut to what a name may have. A name that was deleted and created again here some times has used up the
 * numbered ones: then the stream's own id makes it one of its own, since a stream without a name would hold up all others.
 */
function quarantineName({ id, name }: UnresolvedStream, writer: Id, attempt: number): StreamName {
  const which = attempt === 0 ? "" : attempt === QUARANTINE_NAMES_MAX - 1 ? `-${id}` : `-${attempt + 1}`;
  return suffixedName(name, `.quarantine-${writer.slice(0, 8)}${which}`);
}

function wishFor(stream: UnresolvedStream, provisionalId: Id, name: StreamName): Wish {
  const { contentType, segments, createdAtMs } = stream;
  return { name, provisionalId, contentType, segments, createdAtMs, create: true };
}

function toMapping(row: ResolveAnswer["streams"][number]): StreamMapping | undefined {
  if (row.problem !== "" || row.id === undefined || row.id === null) return undefined;
  return { id: row.id, segments: row.segments, containers: row.containers };
}

async function ask(streams: readonly Wish[], options: ResolverOptions): Promise<ResolveAnswer> {
  const request: ResolveRequest = { type: "resolve", streams };
  const answer = await options.bus.request(UPLINK_SUBJECTS.control(options.cluster), encodeCbor(request), { timeoutMs: options.timeoutMs });
  return decodeResolveAnswer(answer, streams.length);
}
