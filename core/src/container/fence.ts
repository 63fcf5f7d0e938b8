import { hasCode, TributaryError } from "@tributary/common/errors";
import type { Log } from "@tributary/common/ports/log";
import { FRAME_KIND, type FrameHead, WAL_START, type WalPosition } from "./counting.ts";
import type { Operation } from "./operations.ts";
import { type Landed, LogHole, replay } from "./recovery.ts";
import { decodeFrameHead, encodeFrame } from "./wal-frame.ts";

export interface Fenced {
  /** What had landed behind the known end, in order. Certain only now: the fence followed it. */
  readonly landed: readonly Landed[];
  readonly fence: WalPosition;
  /** What the fence says. */
  readonly takeOver: Operation;
}

/**
 * Begins an attempt (rule C3): reads what landed, then appends the fence right behind it. The fence's expected sequence proves
 * that nothing else had landed; what was read is not acted upon before.
 * @throws LOG_SEQUENCE_MISMATCH (read again), CONTAINER_NOT_OWNED (a later epoch fenced), FRAME_CORRUPT, STORE_CORRUPT, LogHole, what the log throws
 */
export async function fence(
  log: Log,
  owner: { readonly container: number; readonly epoch: number; readonly takeOver: Operation },
  /** `endAtLeast`: the log was seen to reach so far. */
  known: { readonly position: WalPosition; readonly end: number; readonly endAtLeast?: number },
  signal: AbortSignal,
): Promise<Fenced> {
  const { container, epoch, takeOver } = owner;
  const landed: Landed[] = [];
  let { position, end } = known;
  try {
    for await (const record of replay(log, position, end)) {
      landed.push(record);
      end = record.seq;
      position = record.frame?.position ?? position;
    }
  } catch (error) {
    if (error instanceof LogHole) throw await explainHole(log, epoch, error);
    throw error;
  }
  if (position.epoch > epoch) throw deposed(epoch, position.epoch);
  if (end < (known.endAtLeast ?? 0)) throw new LogHole(`the log ends at ${known.endAtLeast}, and nothing of it can be read behind ${end}`);
  const attempt = position.epoch === epoch ? position.attempt + 1 : 1;
  const head = { kind: FRAME_KIND.fence, container, epoch, attempt, number: 0, previousHash: position.hash };
  const { bytes, hash } = encodeFrame(head, [takeOver]);
  // Too late: another try is under way, and this fence would only end the attempt that it begins.
  if (signal.aborted) throw new TributaryError("LOG_RESULT_UNKNOWN", "the fence was given up");
  let seq: number;
  try {
    seq = await log.append(bytes, end);
  } catch (error) {
    const { last } = await log.state();
    if (last < end)
      throw new TributaryError("STORE_CORRUPT", `the WAL ends at ${last}, but ${end} was durable: it went back`, { wentBack: true });
    if (!hasCode(error, "LOG_SEQUENCE_MISMATCH")) throw error;
    throw new TributaryError("LOG_SEQUENCE_MISMATCH", error.message, { ...error.details, last }, { cause: error });
  }
  return { landed, fence: { seq, epoch, attempt, number: 0, hash }, takeOver };
}

/**
 * Ends a log whose frames do not go on from each other: whoever still appends to it meets a record that it did not expect. Returns
 * the attempt. @throws LOG_SEQUENCE_MISMATCH (try again), CONTAINER_NOT_OWNED, what the log throws
 */
export async function fenceDamaged(
  log: Log,
  owner: { readonly container: number; readonly epoch: number; readonly takeOver: Operation },
  previousHash: string = WAL_START.hash,
): Promise<number> {
  const { container, epoch, takeOver } = owner;
  const { first, last } = await log.state();
  let attempt = 1;
  for (const record of last >= first ? await log.read(last, { recordsMax: 1, bytesMax: 1 }) : []) {
    const head = headOf(record.data);
    if (head && head.epoch > epoch) throw deposed(epoch, head.epoch);
    if (head?.epoch === epoch) attempt = head.attempt + 1;
  }
  const { bytes } = encodeFrame({ kind: FRAME_KIND.fence, container, epoch, attempt, number: 0, previousHash }, [takeOver]);
  await log.append(bytes, last);
  return attempt;
}

function headOf(data: Uint8Array): FrameHead | undefined {
  try {
    return decodeFrameHead(data);
  } catch {
    return undefined;
  }
}

/**
 * Records that we had not read are gone. A later owner truncated them; or, while we have no fence yet, the one before us; or the
 * log is damaged.
 */
async function explainHole(log: Log, epoch: number, hole: LogHole): Promise<Error> {
  const { first } = await log.state();
  for (const record of await log.read(first, { recordsMax: 1_024, bytesMax: 16_777_216 })) {
    const head = decodeFrameHead(record.data);
    if (head.epoch > epoch) return deposed(epoch, head.epoch);
  }
  return hole;
}

function deposed(epoch: number, later: number): TributaryError {
  return new TributaryError("CONTAINER_NOT_OWNED", `epoch ${epoch} was deposed by epoch ${later}`, { epoch: later });
}
