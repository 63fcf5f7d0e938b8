import type { StreamInfo } from "@tributary/common/stream-service";
import type { EdgeLogs } from "../check/edge-logs.ts";
import { checkKeySpace } from "../check/key-space.ts";
import { StreamVerifier } from "../check/stream-verifier.ts";
import { checkSubmissions, type Excuse, type StreamRead } from "../check/submissions.ts";
import type { Ledger, Loss, Seen, Submission } from "./ledger.ts";

export type { Excuse } from "../check/submissions.ts";

export interface CompleteRead {
  readonly info: StreamInfo;
  readonly records: readonly Seen[];
}

export interface CheckerFacts {
  readonly ledger: Ledger;
  /** What the gateways' logs were given. */
  readonly logs: EdgeLogs;
  /** Records that the counting frames have of a stream. */
  readonly countOf: (streamId: string) => number;
  /** A gateway was cloned or set back: its incarnations are no chain any more. */
  readonly branched: boolean;
  /** A stream of a gateway may have been continued in another one. */
  readonly mayMove: boolean;
  /** What else than the loss or the drop of its own record in the log excuses an event. */
  readonly excuse: (submission: Submission) => Excuse;
}

/** What losses allow for an event, beside that the records which they took are missing. */
export function excuseOf(losses: readonly Loss[], submission: Submission): Excuse {
  let [missing, doubled] = [false, false];
  for (const loss of losses) {
    if (loss.writer !== submission.writer) continue;
    // Sent again after it, since the answer got lost: the server cannot know it any more.
    if (submission.firstMs <= loss.atMs && submission.lastMs >= loss.atMs) doubled = true;
  }
  return { missing, doubled };
}

/** Judges the end of a story by the invariants 1 to 4, from plain records alone. */
export function checkReads(reads: readonly CompleteRead[], facts: CheckerFacts): void {
  const { ledger, logs, excuse } = facts;
  for (const read of reads) {
    checkKeySpace(read.info.name.stream, read.info.segments, ledger.violate);
    checkNumbers(read, facts);
  }
  const streams = reads.map(({ info, records }): StreamRead => ({ stream: `${info.name.scope}/${info.name.stream}`, ...info, records }));
  checkSubmissions(streams, { submissions: ledger.submissions, logs, excuse: (of) => excuse(of as Submission), violate: ledger.violate });
}

/** Ordinals and numbers without holes; without a gap record only those may be missing that the writer itself never knew after a loss. */
function checkNumbers({ info, records }: CompleteRead, { ledger, logs, countOf, branched, mayMove }: CheckerFacts): void {
  const verifier = new StreamVerifier({ branched });
  for (const record of records) verifier.add(record);
  const report = verifier.finish(1, (run, from, to) => {
    let lost = 0;
    for (let number = from; number <= to; number++) if (logs.numbered(run, number).some(({ record }) => record.forgotten)) lost++;
    return lost;
  });
  for (const { invariant, kind, detail } of report.violations) {
    // Its first numbers are in the stream that was deleted or closed.
    if (mayMove && kind === "missing") continue;
    ledger.violate(invariant, `${kind} by number`, `${info.name.stream}: ${detail}`);
  }
  const expected = countOf(info.id);
  if (expected !== records.length) {
    ledger.violate(1, "incomplete read", `${info.name.stream}: ${records.length} records were read, the counting frames hold ${expected}`);
  }
}
