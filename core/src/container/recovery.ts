import { hasCode, TributaryError } from "@tributary/common/errors";
import type { Log, LogRecord } from "@tributary/common/ports/log";
import type { TierReader } from "../tier/tier-reader.ts";
import { FRAME_KIND, judgeFrame, type WalPosition } from "./counting.ts";
import { Durable, emptyTier, NO_CHECKPOINT } from "./durable.ts";
import type { Checkpoint, Operation } from "./operations.ts";
import { decodeFrame, decodeFrameHead, frameHash, peekFrameKind } from "./wal-frame.ts";

const PAGE = { recordsMax: 512, bytesMax: 16_777_216 } as const;

/** Records that were expected are gone: somebody truncated the log meanwhile, or it is damaged. */
export class LogHole extends Error {
  override readonly name = "LogHole";
}

/** Every record from `fromSeq` on, in order. @throws LogHole */
async function* readRecords(log: Log, fromSeq: number): AsyncGenerator<LogRecord> {
  let next = fromSeq;
  while (true) {
    const page = await log.read(next, PAGE);
    if (page.length === 0) return;
    for (const record of page) {
      if (record.seq !== next) throw new LogHole(`the log goes on at ${record.seq} where ${next} was expected`);
      next++;
      yield record;
    }
  }
}

/**
 * The durable state of a container: the newest checkpoint that counts, then the frames after it (rule C5).
 *
 * Which frames count hangs on the one before, back to where the log begins; but its beginning is truncated. A checkpoint frame
 * names the position through which everything is tiered, so counting can start there, and it proves itself: it must count under
 * its own position. A deposed owner's checkpoint does not, because the new owner's fence lies between the two.
 *
 * @throws FRAME_CORRUPT, STORE_CORRUPT, LogHole
 */
export async function recover(log: Log, tier: TierReader): Promise<Durable> {
  const { first, last } = await log.state();
  const candidates: { seq: number; checkpoint: Checkpoint }[] = [];
  if (last >= first) {
    for await (const record of readRecords(log, first)) {
      if (peekFrameKind(record.data) !== FRAME_KIND.checkpoint) continue;
      const checkpoint = checkpointOf(record);
      if (checkpoint && checkpoint.position.seq >= first - 1) candidates.push({ seq: record.seq, checkpoint });
    }
  }
  let failure: unknown;
  for (const { seq, checkpoint } of candidates.toReversed()) {
    const durable = new Durable(checkpoint, await tier.load(checkpoint));
    let certified = false;
    try {
      for await (const landed of replay(log, durable.position, durable.end)) {
        certified ||= landed.seq === seq && landed.frame !== undefined;
        applyLanded(durable, landed);
      }
    } catch (error) {
      if (certified || !hasCode(error, "FRAME_CORRUPT")) throw error;
      // Seen from a checkpoint that does not count anything may look corrupt; one before it decides.
      failure = error;
      continue;
    }
    if (certified) return durable;
  }
  if (first > 1) {
    throw failure ?? new TributaryError("STORE_CORRUPT", `the WAL begins at ${first} and holds no checkpoint that counts`);
  }
  const durable = new Durable(NO_CHECKPOINT, emptyTier());
  for await (const landed of replay(log, durable.position, durable.end)) applyLanded(durable, landed);
  return durable;
}

export function applyLanded(durable: Durable, landed: Landed): ReturnType<Durable["apply"]> {
  if (landed.frame) return durable.apply(landed.frame.position, landed.frame.operations);
  durable.end = landed.seq;
  return new Map();
}

/** Damage is not judged here: replay meets the record again. */
function checkpointOf(record: LogRecord): Checkpoint | undefined {
  try {
    for (const operation of decodeFrame(record.data).operations) if (operation.type === "tiered") return operation.checkpoint;
  } catch {
    return undefined;
  }
  return undefined;
}

/** A stored record: a counting frame, or none if it is void. */
export interface Landed {
  readonly seq: number;
  readonly frame: { readonly position: WalPosition; readonly operations: readonly Operation[] } | undefined;
}

/** Reads and judges the records behind `end`, of which `position` is the last that counts. @throws FRAME_CORRUPT with details seq, LogHole */
export async function* replay(log: Log, from: WalPosition, end: number): AsyncGenerator<Landed> {
  let position = from;
  for await (const record of readRecords(log, end + 1)) {
    const head = located(record, () => decodeFrameHead(record.data));
    const verdict = judgeFrame(position, record.seq, head);
    if (verdict === "corrupt") {
      throw new TributaryError("FRAME_CORRUPT", `WAL record ${record.seq} does not continue the counting frame ${position.seq}`, {
        seq: record.seq,
      });
    }
    if (verdict === "void") {
      yield { seq: record.seq, frame: undefined };
      continue;
    }
    const { operations } = located(record, () => decodeFrame(record.data));
    const { epoch, attempt, number } = head;
    position = { seq: record.seq, epoch, attempt, number, hash: frameHash(record.data) };
    yield { seq: record.seq, frame: { position, operations } };
  }
}

function located<T>(record: LogRecord, decode: () => T): T {
  try {
    return decode();
  } catch (error) {
    if (!(error instanceof TributaryError)) throw error;
    throw new TributaryError(error.code, `record ${record.seq}: ${error.message}`, { ...error.details, seq: record.seq }, { cause: error });
  }
}
