import type { StreamInfo } from "@tributary/common/stream-service";
import { StreamVerifier } from "../check/stream-verifier.ts";
import type { Ledger, Loss, Seen, Submission } from "./ledger.ts";

export interface CompleteRead {
  readonly info: StreamInfo;
  readonly records: readonly Seen[];
}

export interface CheckerFacts {
  readonly ledger: Ledger;
  /** Records that the counting frames have of a stream. */
  readonly countOf: (streamId: string) => number;
  /** Names of disks whose gateway dropped events because of its quota. */
  readonly dropping: ReadonlySet<string>;
  /** A gateway was cloned or set back: its incarnations are no chain any more. */
  readonly branched: boolean;
}

/** What losses allow for an event. */
export interface Excuse {
  readonly missing: boolean;
  readonly doubled: boolean;
}

export function excuseOf(losses: readonly Loss[], submission: Submission): Excuse {
  let [missing, doubled] = [false, false];
  for (const loss of losses) {
    if (loss.writer !== submission.writer) continue;
    // A backup brings back packet ids that were released since: what comes under one of them is taken for known. Not claimed yet.
    if (submission.knownBefore && loss.reason === "restored from a backup") missing = true;
    if (submission.firstMs > loss.atMs) continue;
    // Sent again after it, since the answer got lost: the server cannot know it any more.
    if (submission.lastMs >= loss.atMs) doubled = true;
    // Under way as it happened: nobody can tell what became of it.
    if (submission.ackMs === undefined || submission.ackMs >= loss.atMs) missing = doubled = true;
    else if ((submission.ackSeq ?? 0) >= loss.fromSeq && submission.fromSeq < loss.throughSeq) missing = true;
  }
  return { missing, doubled };
}

/** Judges the end of a story by the invariants 1 to 4, from plain records alone. */
export function checkReads(reads: readonly CompleteRead[], facts: CheckerFacts): void {
  const { ledger } = facts;
  const places = new Map<number, number>();
  for (const read of reads) {
    checkKeySpace(read.info, ledger);
    checkNumbers(read, facts);
    checkOrder(read, facts);
    for (const { id } of read.records) if (id >= 0) places.set(id, (places.get(id) ?? 0) + 1);
  }
  checkCounts(places, reads, facts);
}

/** Invariant 4. */
function checkKeySpace({ name, segments }: StreamInfo, ledger: Ledger): void {
  let next = 0;
  for (const { range } of segments.toSorted((a, b) => a.range.from - b.range.from)) {
    if (range.from !== next) ledger.violate(4, "key space", `${name.stream}: ${range.from} follows ${next}`);
    next = range.to;
  }
  if (next !== 2 ** 32) ledger.violate(4, "key space", `${name.stream} ends at ${next}`);
}

/** Ordinals and numbers without holes that no gap record explains. */
function checkNumbers({ info, records }: CompleteRead, { ledger, countOf, branched }: CheckerFacts): void {
  const verifier = new StreamVerifier();
  for (const record of records) verifier.add(record.gap ? { ...record, gap: record.gap } : plain(record));
  const report = verifier.finish();
  for (const { kind, detail } of report.violations) {
    // What a lost disk had not handed on yet is missing without a word; and branches of a writer stand beside each other.
    if (branched && kind !== "doubled") continue;
    ledger.violate(kind === "reordered" ? 2 : 1, `${kind} by number`, `${info.name.stream}: ${detail}`);
  }
  const expected = countOf(info.id);
  if (expected !== records.length) {
    ledger.violate(1, "incomplete read", `${info.name.stream}: ${records.length} records were read, the counting frames hold ${expected}`);
  }
}

function plain({ gap: _, ...record }: Seen) {
  return record;
}

/** Invariant 2: of two events of one writer and key, what was acknowledged before the other was sent stands before it. */
function checkOrder({ info, records }: CompleteRead, { ledger, dropping }: CheckerFacts): void {
  const latest = new Map<string, { sentMs: number; id: number }>();
  const met = new Set<number>();
  for (const { id, key } of records) {
    const submission = ledger.submissions[id];
    if (!submission || met.has(id)) continue;
    met.add(id);
    if (key !== submission.key) ledger.violate(1, "foreign key", `event ${id} was read under key ${key}, sent under ${submission.key}`);
    const excuse = excuseOf(ledger.losses, submission);
    if (excuse.missing || excuse.doubled) continue;
    // Of what was sent twice the first may have been dropped.
    if (submission.attempts > 1 && dropping.has(submission.writer)) continue;
    const group = `${submission.writer} ${key}`;
    const before = latest.get(group);
    if (before && submission.ackMs !== undefined && submission.ackMs < before.sentMs) {
      ledger.violate(
        2,
        "reordered",
        `${info.name.stream}, key ${key} of ${submission.writer}: event ${id}, acknowledged at ${submission.ackMs.toFixed(1)} ms, is read behind event ${before.id}, sent at ${before.sentMs.toFixed(1)} ms`,
      );
    }
    if (!before || submission.firstMs > before.sentMs) latest.set(group, { sentMs: submission.firstMs, id });
  }
}

/** Invariant 1. */
function checkCounts(places: ReadonlyMap<number, number>, reads: readonly CompleteRead[], { ledger, dropping }: CheckerFacts): void {
  const declared = reads.reduce((sum, read) => sum + read.records.reduce((count, { gap }) => count + (gap?.count ?? 0), 0), 0);
  let droppedMissing = 0;
  for (const submission of ledger.submissions) {
    const count = places.get(submission.id) ?? 0;
    const excuse = excuseOf(ledger.losses, submission);
    const who = `event ${submission.id} of ${submission.client} in ${submission.stream}`;
    const allowed = submission.promise === "at-least-once" ? submission.attempts : 1;
    if (count > allowed && !excuse.doubled)
      ledger.violate(1, "doubled", `${who} is there ${count} times, sent ${submission.attempts} times`);
    if (submission.refused && count > 0) ledger.violate(1, "refused but there", `${who} was refused, and is there`);
    if (count > 0 || submission.ackMs === undefined || excuse.missing) continue;
    if (dropping.has(submission.writer)) droppedMissing++;
    else
      ledger.violate(
        1,
        "lost",
        `${who}, acknowledged by ${submission.writer} at ${submission.ackMs.toFixed(1)} ms (record ${submission.ackSeq}), is lost`,
      );
  }
  if (droppedMissing > declared)
    ledger.violate(1, "lost without a gap", `${droppedMissing} events are missing, gap records declare ${declared}`);
}
