import { keyHash } from "@tributary/common/key-hash";
import { type Copy, type EdgeLogs, isLost } from "./edge-logs.ts";
import { type PlainRecord, runOf, type Submission, type Violate } from "./plain.ts";

/** A record with the id that its bytes carry: −1 for a gap record. */
export type ReadRecord = PlainRecord & { readonly id: number };

/** A stream read from its first event to its last. */
export interface StreamRead {
  /** The core's. */
  readonly id: string;
  readonly stream: string;
  readonly segments: readonly { readonly id: string; readonly range: { readonly from: number; readonly to: number } }[];
  readonly records: readonly ReadRecord[];
}

/** What is allowed for an event. */
export interface Excuse {
  readonly missing: boolean;
  readonly doubled: boolean;
}

export interface Told {
  readonly submissions: readonly Submission[];
  readonly logs: EdgeLogs;
  /** When the reads began. What was acknowledged since may be missing in them. */
  readonly beganMs: number;
  /** What else than the loss or the drop of its own record in the log excuses an event. */
  readonly excuse: (submission: Submission) => Excuse;
  /** A gap record that tells of it is in a stream that damage keeps from being read. */
  readonly isDeclaredUnread: (copy: Copy) => boolean;
  /** A stream that is deleted held event `id`. */
  readonly wasDeleted: (id: number) => boolean;
  /** Another stream than this one held the event, and is closed: what was not freed of it was sent again to the one that came after it. */
  readonly wasClosed: (id: number, streamId: string) => boolean;
  /** When the core was given the event once more in this stream, after its logs had lost it there; undefined if they never did. */
  readonly cameAgainMs: (id: number, streamId: string) => number | undefined;
  /** How long a request may be under way. */
  readonly underWayMsMax: number;
  /** The stream of the core is deleted or closed. */
  readonly hasEnded: (streamId: string) => boolean;
  readonly violate: Violate;
}

/** Judges complete reads of all streams by what clients sent and were told: invariants 1 and 2. */
export function checkSubmissions(reads: readonly StreamRead[], told: Told): void {
  for (const read of reads) {
    checkOrigin(read, told);
    checkLogOrder(read, told);
    checkAckOrder(read, told);
  }
  checkCounts(reads, told);
}

/** What is read is what was sent, under the key under which it was sent and the number under which a log has it. */
function checkOrigin({ id: streamId, stream, records }: StreamRead, { submissions, logs, violate }: Told): void {
  for (const { id, key, gap, number, ...record } of records) {
    if (gap) continue;
    const submission = submissions[id];
    if (!submission) {
      violate(1, "foreign bytes", `${stream}: ordinal ${record.ordinal} of ${record.segment} is nothing that anybody sent`);
      continue;
    }
    if (key !== submission.key) violate(1, "foreign key", `event ${id} was read under key ${key}, sent under ${submission.key}`);
    if (logs.knows(record.writer) && !logs.find(id, runOf(record), number, streamId))
      violate(1, "never logged", `${stream}: event ${id} is read as number ${number} of ${runOf(record)}, which no log ever had`);
  }
}

/**
 * Invariant 2: what a log holds is read in the order of the log, key by key, whichever incarnations and copies of the log there are.
 * What was revived is in order by itself; so is what the log gave up with its stream, or had freed before the core lost it, and a copy of
 * it brings.
 */
function checkLogOrder({ id: streamId, stream, records }: StreamRead, told: Told): void {
  const { logs, violate } = told;
  /** By log, key, whether it was revived and whether a copy brought it: the last of each of the gateway's streams. */
  const latest = new Map<string, Map<string, Copy>>();
  for (const { id, key, number, gap, ...record } of records) {
    const copy = gap ? undefined : logs.find(id, runOf(record), number, streamId);
    if (!copy) continue;
    const revived = isRevived(id, streamId, told);
    for (const log of copy.record.heldBy) {
      const group = mapIn(latest, `${log} ${key} ${revived} ${isOfAnother(copy, log, streamId, told)}`);
      for (const before of group.values()) {
        if ((before.record.seq - copy.record.seq || before.number - copy.number) <= 0 || logs.wasGivenUp(log, copy, before)) continue;
        if (revived && mayComeAlone(copy, before, streamId, logs)) continue;
        violate(
          2,
          "reordered",
          `${stream}, key ${key}: event ${id}, record ${copy.record.seq} of ${log}, is read behind event ${before.id}, record ${before.record.seq}`,
        );
        break;
      }
      group.set(copy.localId, copy);
    }
  }
}

interface Acknowledged {
  readonly sentMs: number;
  readonly id: number;
  readonly copy: Copy | undefined;
}

/**
 * Invariant 2: of two events of one writer and key, what was acknowledged before the other was sent stands before it. Of what a device
 * sent twice the first copy may be lost or given up: then the second one stands where it was sent again. So does what was sent to the core
 * itself twice, because the first answer did not come, where the core's logs lost it meanwhile: its acknowledgement went with it.
 */
function checkAckOrder({ id: streamId, stream, records }: StreamRead, told: Told): void {
  const { submissions, logs, wasDeleted, cameAgainMs, underWayMsMax, violate } = told;
  /** By writer, key and whether it was revived: what was sent last, for each of the gateway's streams and each history of its log. */
  const latest = new Map<string, Map<string, Acknowledged>>();
  const met = new Set<number>();
  for (const { id, key, number, ...record } of records) {
    const submission = submissions[id];
    if (!submission || met.has(id)) continue;
    met.add(id);
    const first = logs.copiesOf(id).find((copy) => !copy.record.torn);
    if (first && logs.find(id, runOf(record), number, streamId) !== first) continue;
    // Sent again, it met the next stream of the name.
    if (!first && submission.attempts > 1 && wasDeleted(id)) continue;
    const revived = isRevived(id, streamId, told);
    const group = mapIn(latest, `${submission.writer} ${key} ${revived}`);
    const cameMs = !first && submission.attempts > 1 ? cameAgainMs(id, streamId) : undefined;
    // What comes later than any request may be under way was sent by nobody.
    const againMs = cameMs !== undefined && cameMs <= submission.lastMs + underWayMsMax ? cameMs : undefined;
    for (const before of group.values()) {
      if (submission.ackMs === undefined || Math.max(submission.ackMs, againMs ?? 0) >= before.sentMs) continue;
      if (first && before.copy && (mayComeLate(first, before.copy, logs) || (revived && mayComeAlone(first, before.copy, streamId, logs))))
        continue;
      if (first && [...(before.copy?.record.heldBy ?? [])].some((log) => isOfAnother(first, log, streamId, told))) continue;
      violate(
        2,
        "reordered",
        `${stream}, key ${key} of ${submission.writer}: event ${id}, acknowledged at ${submission.ackMs.toFixed(1)} ms, is read behind event ${before.id}, sent at ${before.sentMs.toFixed(1)} ms`,
      );
      break;
    }
    const kind = `${first?.localId} ${first?.record.forgotten}`;
    if (submission.firstMs > (group.get(kind)?.sentMs ?? -1)) group.set(kind, { sentMs: submission.firstMs, id, copy: first });
  }
}

/**
 * What a disk had sent before a backup took its place may arrive when the core has events that the backup's log was given since. The two
 * are branches of a log, as a log and its clone are: each has an order, and they have none between them. Also what a branch gave up,
 * with its stream, before it wrote the later event may come from another one: a backup does not know of the deletion.
 */
function mayComeLate(copy: Copy, before: Copy, logs: EdgeLogs): boolean {
  if (copy.record.forgotten && !before.record.forgotten) return true;
  return [...before.record.heldBy, ...before.record.lostBy].some((branch) => logs.wasGivenUp(branch, copy, before));
}

/**
 * Of what is revived: a copy of the log that has the event and not the later one brings it whenever it comes. So does one that has both,
 * and has not freed them, where another one had freed the event before it brought the later one.
 */
function mayComeAlone(copy: Copy, before: Copy, streamId: string, logs: EdgeLogs): boolean {
  const { heldBy } = copy.record;
  return (
    [...heldBy].some((log) => !before.record.heldBy.has(log)) ||
    (heldBy.size > 1 &&
      [...before.record.heldBy].some((log) => logs.wasFreedBefore(log, copy, streamId) && !logs.wasFreedBefore(log, before, streamId)))
  );
}

/**
 * The log had freed the event before the core lost it, and wrote on; a copy of the log, which had not, brought it to the core once more.
 * The copy has its own order.
 */
function isOfAnother({ id, record }: Copy, log: string, streamId: string, { logs, cameAgainMs }: Told): boolean {
  const atMs = cameAgainMs(id, streamId);
  return atMs !== undefined && logs.onlyAnotherHad(log, record, atMs);
}

/** Invariant 1: what was acknowledged is there, as often as promised. */
function checkCounts(reads: readonly StreamRead[], told: Told): void {
  const { submissions, logs, beganMs, excuse, isDeclaredUnread, violate } = told;
  const places = new Map<number, number>();
  /** Of one stream: the one that has it most often. */
  const most = new Map<number, number>();
  const revived = new Set<number>();
  for (const { id: streamId, records } of reads) {
    const here = new Map<number, number>();
    for (const { id } of records) {
      if (id < 0) continue;
      const count = (here.get(id) ?? 0) + 1;
      here.set(id, count);
      most.set(id, Math.max(most.get(id) ?? 0, count));
      places.set(id, (places.get(id) ?? 0) + 1);
      if (isRevived(id, streamId, told)) revived.add(id);
    }
  }
  const gaps = new Gaps(reads);
  const isDeclared = (copy: Copy) => gaps.declare(copy, logs.mappedOf(copy.localId)) || isDeclaredUnread(copy);
  for (const submission of submissions) {
    const count = places.get(submission.id) ?? 0;
    const who = `event ${submission.id} of ${submission.client} in ${submission.stream}`;
    const allowed = submission.promise === "at-least-once" ? submission.attempts : 1;
    const isOncePerCopy = (most.get(submission.id) ?? 0) <= allowed && isDivided(submission.id, told);
    if (count > allowed && !excuse(submission).doubled && !revived.has(submission.id) && !isOncePerCopy)
      violate(1, "doubled", `${who} is there ${count} times, sent ${submission.attempts} times`);
    if (submission.refused && count > 0) violate(1, "refused but there", `${who} was refused, and is there`);
    if (count > 0 || submission.ackMs === undefined || submission.ackMs >= beganMs || excuse(submission).missing) continue;
    const durable = logs.copiesOf(submission.id).filter(({ record }) => !record.torn);
    const unexcused = durable.find((copy) => !isLost(copy) && !isDeclared(copy));
    if (durable.length > 0 && !unexcused) continue;
    const where = unexcused
      ? `record ${unexcused.record.seq}, number ${unexcused.number} of ${unexcused.run}, in no gap record`
      : "in no log";
    violate(1, "lost", `${who}, acknowledged by ${submission.writer} at ${submission.ackMs.toFixed(1)} ms (${where}), is lost`);
  }
}

/** Each copy of a log may bring it from the stream that was deleted or closed into another one, also where later events stand already. */
function isRevived(id: number, streamId: string, { logs, wasDeleted, wasClosed }: Told): boolean {
  return logs.wasCopied(id) && (wasDeleted(id) || wasClosed(id, streamId));
}

/**
 * The stream to which the gateway's was mapped ended, perhaps before the event came to it: each copy of the log brings it to whatever
 * the name, or a quarantine stream, leads to by then.
 */
function isDivided(id: number, { logs, hasEnded }: Told): boolean {
  return logs.wasCopied(id) && logs.copiesOf(id).some(({ localId }) => [...logs.mappedOf(localId)].some(hasEnded));
}

/** The same segment, or what took its place in a later generation. */
function isSuccessor(segment: string, of: string): boolean {
  return segment.slice(segment.indexOf(".")) === of.slice(of.indexOf("."));
}

interface GapRecord {
  readonly streamId: string;
  readonly range: { readonly from: number; readonly to: number } | undefined;
  readonly first: number;
  readonly last: number;
  readonly count: number;
}

/** What gap records say is lost. */
export class Gaps {
  readonly #byRun = new Map<string, GapRecord[]>();

  constructor(reads: readonly StreamRead[]) {
    for (const { id: streamId, segments, records } of reads) {
      for (const { gap, number, segment, ...record } of records) {
        if (!gap) continue;
        const run = runOf(record);
        const list = this.#byRun.get(run) ?? [];
        const range = segments.find(({ id }) => isSuccessor(id, segment))?.range;
        list.push({ streamId, range, last: number, ...gap });
        this.#byRun.set(run, list);
      }
    }
  }

  /** A gap record in one of these streams of the core tells of it. */
  declare({ run, number, key }: Copy, streamIds: ReadonlySet<string>): boolean {
    const hash = keyHash(key);
    return (this.#byRun.get(run) ?? []).some(
      ({ streamId, first, last, count, range }) =>
        first <= number &&
        number <= last &&
        streamIds.has(streamId) &&
        // It tells of its own segment, or, where all of its numbers are lost, of every segment.
        (count === last - first + 1 || (range !== undefined && range.from <= hash && hash < range.to)),
    );
  }
}

function mapIn<V>(groups: Map<string, Map<string, V>>, name: string): Map<string, V> {
  let group = groups.get(name);
  if (!group) {
    group = new Map();
    groups.set(name, group);
  }
  return group;
}
