import { formatStreamName } from "@tributary/common/names";
import type { StreamInfo } from "@tributary/common/stream-service";
import type { AppendBlock, Operation } from "@tributary/core/container/operations";
import type { Copy } from "../check/edge-logs.ts";
import { runOf } from "../check/plain.ts";
import type { Standing } from "../check/wal-history.ts";
import type { Ledger, Submission } from "./ledger.ts";

/** How long a request that was sent to a node may still be carried out there: longer than any pause. */
export const UNDER_WAY_MS_MAX = 20_000;

/** One attempt to delete a stream. */
export interface Deletion {
  /** The gateway's disk, or "core". */
  readonly writer: string;
  readonly stream: string;
  readonly sentMs: number;
  /** When the server said that it is done. */
  doneMs: number | undefined;
}

/** What is added to a stream's name where another one has it. */
const CAME_OF = /\.(?:quarantine|recovered)-.*$/;

interface Holder {
  readonly streamId: string;
  readonly frame: Standing;
  readonly atMs: number;
}

/** What a gap record told: `count` of the numbers from `first` to `last` are lost to this segment. */
interface Gap {
  readonly streamId: string;
  /** Which of the stream's. */
  readonly segment: number;
  readonly first: number;
  readonly last: number;
  readonly count: number;
  readonly frame: Standing;
}

/**
 * What becomes of streams: which the counting frames delete and close, which of them hold an event, and what clients asked for. What a
 * log lost with the frames that said it is not so any more.
 */
export class StreamFates {
  readonly deletions: Deletion[] = [];
  readonly #ledger: Ledger;
  readonly #nowMs: () => number;
  /** Streams that a counting frame deleted, or closed, with those frames. */
  readonly #deleted = new Map<string, Standing[]>();
  readonly #closed = new Map<string, Standing[]>();
  readonly #holders = new Map<number, Holder[]>();
  /** By run: gap records. */
  readonly #gaps = new Map<string, Gap[]>();
  /** By name: frames that registered a stream, or one that stands in for it. */
  readonly #registered = new Map<string, Holder[]>();
  readonly #names = new Map<string, string>();
  /** Streams whose deletion somebody was told of, and when. */
  readonly #gone = new Map<string, number>();
  readonly #askedToClose = new Set<string>();

  constructor(ledger: Ledger, nowMs: () => number) {
    this.#ledger = ledger;
    this.#nowMs = nowMs;
  }

  /** An operation of a counting frame. */
  apply(operation: Operation, frame: Standing): void {
    switch (operation.type) {
      case "register-stream":
        if (frame.counts && this.isDeleted(operation.streamId)) this.#ledger.violate(3, "deleted stream came back", operation.streamId);
        if (operation.closed) push(this.#closed, operation.streamId, frame);
        if (operation.origin)
          push(this.#registered, formatStreamName(operation.origin.name).replace(CAME_OF, ""), {
            streamId: operation.streamId,
            frame,
            atMs: this.#nowMs(),
          });
        break;
      case "close-stream":
        push(this.#closed, operation.streamId, frame);
        break;
      case "delete-stream":
        push(this.#deleted, operation.streamId, frame);
        break;
      case "append-block":
        this.#tell(operation, frame);
    }
  }

  #tell({ block, decisions }: AppendBlock, frame: Standing): void {
    for (const { slice, skip } of decisions) {
      const gap = block.slices.at(slice);
      if (gap?.kind !== "gap") continue;
      const { streamId, segment, last } = gap;
      const first = gap.first + skip;
      const count = Math.min(gap.count, last - first + 1);
      push(this.#gaps, runOf(block), { streamId, segment: segment.number, first, last, count, frame });
    }
  }

  /** A counting frame holds the event. */
  hold(id: number, streamId: string, frame: Standing): void {
    const who = `event ${id} in ${this.#names.get(streamId) ?? ""} ${streamId}`;
    if (frame.counts && this.isDeleted(streamId)) this.#ledger.violate(1, "appended to a deleted stream", who);
    if (frame.counts && this.isClosed(streamId)) this.#ledger.violate(1, "appended to a closed stream", who);
    push(this.#holders, id, { streamId, frame, atMs: this.#nowMs() });
  }

  holdersOf(id: number): readonly string[] {
    return (this.#holders.get(id) ?? []).flatMap(({ streamId, frame }) => (frame.counts ? [streamId] : []));
  }

  /** Streams in which frames held it that a log lost. */
  lostFrom(id: number): readonly string[] {
    return (this.#holders.get(id) ?? []).flatMap(({ streamId, frame }) => (frame.counts ? [] : [streamId]));
  }

  /** Gap records of these streams that tell of an event, also in frames that a log lost. `segmentOf`: where it belongs in each stream. */
  gapsOf(
    { run, number }: Pick<Copy, "run" | "number">,
    streamIds: ReadonlySet<string>,
    segmentOf: (streamId: string) => number,
  ): readonly Pick<Gap, "streamId" | "frame">[] {
    return (this.#gaps.get(run) ?? []).filter(
      ({ streamId, segment, first, last, count }) =>
        streamIds.has(streamId) && first <= number && number <= last && (count === last - first + 1 || segment === segmentOf(streamId)),
    );
  }

  /** When a stream was given an event once more of which a log had lost the frames that held it there. */
  cameAgainMs(id: number, streamId: string): number | undefined {
    const held = (this.#holders.get(id) ?? []).filter((holder) => holder.streamId === streamId);
    return held.every(({ frame }) => frame.counts) ? undefined : held.find(({ frame }) => frame.counts)?.atMs;
  }

  /** A log lost all that it knew of a stream of this name. */
  wasForgotten(name: string): boolean {
    const all = this.#registered.get(name) ?? [];
    return all.some(({ streamId }) => all.every((other) => other.streamId !== streamId || !other.frame.counts));
  }

  /** Frames held it, and a log lost them all. */
  wasLost(id: number): boolean {
    return this.#holders.get(id)?.every(({ frame }) => !frame.counts) ?? false;
  }

  /** A stream that is deleted held the event. */
  wasDeleted(id: number): boolean {
    return this.holdersOf(id).some((streamId) => this.isDeleted(streamId));
  }

  /** A stream other than this one held the event, and is closed. */
  wasClosed(id: number, streamId: string): boolean {
    return this.holdersOf(id).some((holder) => holder !== streamId && this.isClosed(holder));
  }

  isDeleted(streamId: string): boolean {
    return this.#deleted.get(streamId)?.some(({ counts }) => counts) ?? false;
  }

  isClosed(streamId: string): boolean {
    return this.#closed.get(streamId)?.some(({ counts }) => counts) ?? false;
  }

  /** Somebody learned the id of a name. */
  learn(name: string, streamId: string): void {
    this.#names.set(streamId, name);
  }

  /** To be called each time that it is sent. */
  ask(writer: string, stream: string): Deletion {
    const deletion: Deletion = { writer, stream, sentMs: this.#nowMs(), doneMs: undefined };
    this.deletions.push(deletion);
    return deletion;
  }

  /** In the server, as it answers. */
  done(deletion: Deletion): void {
    deletion.doneMs = this.#nowMs();
    if (deletion.writer !== "core") return;
    for (const [streamId, name] of this.#names) {
      if (name === deletion.stream && this.isDeleted(streamId) && !this.#gone.has(streamId)) this.#gone.set(streamId, this.#nowMs());
    }
  }

  /** Whether somebody asked to delete the stream there, ever or until then. */
  wasAsked(writer: string, stream: string, throughMs: number = Number.POSITIVE_INFINITY): boolean {
    return this.deletions.some((deletion) => deletion.writer === writer && deletion.stream === stream && deletion.sentMs <= throughMs);
  }

  /** To be called before the stream is closed. */
  askToClose(writer: string, stream: string): void {
    this.#askedToClose.add(`${writer} ${stream}`);
  }

  mayBeClosed(writer: string, stream: string): boolean {
    return this.#askedToClose.has(`${writer} ${stream}`);
  }

  /** A gateway's stream may go on in another one of the core, and what it freed it may read back from the other one. */
  mayMoveAt(stream: string): boolean {
    return this.mayBeClosed("core", stream) || this.wasAsked("core", stream);
  }

  isGone(streamId: string): boolean {
    return this.#gone.has(streamId) && this.isDeleted(streamId);
  }

  /** A read that began after the deletion was answered must not find the stream. */
  judgeRead(streamId: string, beganMs: number, reader: string): void {
    if (this.isDeleted(streamId) && (this.#gone.get(streamId) ?? Number.POSITIVE_INFINITY) < beganMs) {
      this.#ledger.violate(3, "read of a deleted stream", `${reader} reads ${this.#names.get(streamId)} ${streamId}`);
    }
  }

  /** What deletions allow for an event. */
  excuse(submission: Submission): { missing: boolean; doubled: boolean } {
    const { missing, doubled } = this.#excuseCopy(submission, new Set([submission.writer]));
    // What a stream holds that exists must be read there.
    const isHeld = this.holdersOf(submission.id).some((streamId) => !this.isDeleted(streamId));
    return { missing: missing && !isHeld, doubled };
  }

  /**
   * A log may give its copy of the event up: the stream that it was of is deleted. What was sent again may be in another one. `heldBy`:
   * the logs that hold this copy. Of a gateway and its clone each deletes for itself, and what one gave up counts as known for the other:
   * the gap record stands for both (known limit; seed 166).
   */
  mayBeGivenUp(submission: Submission, heldBy: ReadonlySet<string>): boolean {
    return this.#excuseCopy(submission, new Set([submission.writer, ...heldBy])).missing;
  }

  /** `logs`: those where deletions count. */
  #excuseCopy(submission: Submission, logs: ReadonlySet<string>): { missing: boolean; doubled: boolean } {
    const holders = this.holdersOf(submission.id);
    let missing = holders.length > 0 && holders.every((streamId) => this.isDeleted(streamId));
    // What a gateway had brought into a stream that is closed then, and not freed, it sends again to another one: until streams inherit
    // the numbers of those before them (rule W4).
    let doubled = holders.some((streamId) => this.isClosed(streamId));
    for (const { writer, stream, sentMs, doneMs } of this.deletions) {
      if (writer === "core" || !logs.has(writer) || stream !== submission.stream) continue;
      const throughMs = doneMs ?? sentMs + UNDER_WAY_MS_MAX;
      if (submission.firstMs > throughMs) continue;
      // Sent again, it meets another stream; or a packet id that is known from the one before.
      if (submission.attempts > 1 && submission.lastMs >= sentMs) missing = doubled = true;
      else if (submission.lastMs <= throughMs) missing = true;
    }
    return { missing, doubled };
  }

  /** What there is at the end: nothing that was deleted, what was closed is closed, and nothing went unasked. */
  judgeEnd(streams: readonly StreamInfo[]): void {
    for (const { id, name, closed } of streams) {
      if (this.isDeleted(id)) this.#ledger.violate(3, "read of a deleted stream", `${name.stream} ${id} is still there`);
      if (this.isClosed(id) !== closed) this.#ledger.violate(3, "not closed any more", `${name.stream} ${id}`);
    }
    const asked = this.deletions.filter(({ writer }) => writer === "core").length;
    if (this.#deleted.size > asked) {
      this.#ledger.violate(1, "deleted unasked", `${this.#deleted.size} streams were deleted, ${asked} deletions were asked for`);
    }
  }
}

function push<K, T>(map: Map<K, T[]>, key: K, value: T): void {
  const list = map.get(key);
  if (list) list.push(value);
  else map.set(key, [value]);
}
