import { hasCode, TributaryError } from "@tributary/common/errors";
import type { Log, LogRecord } from "@tributary/common/ports/log";
import type { TierReader } from "../tier/tier-reader.ts";
import { FRAME_KIND, judgeFrame, WAL_START, type WalPosition } from "./counting.ts";
import { Durable } from "./durable.ts";
import { frameHash } from "./frame-hash.ts";
import { epochBefore, generationOf } from "./generation.ts";
import type { Checkpoint, Operation } from "./operations.ts";
import { decodeFrame, decodeFrameHead, peekFrameKind } from "./wal-frame.ts";

const PAGE = { recordsMax: 512, bytesMax: 16_777_216 } as const;

/** Records that were expected are gone: somebody truncated the log meanwhile, or it is damaged. */
export class LogHole extends Error {
  override readonly name = "LogHole";
}

/** The log's beginning is gone, and it holds no checkpoint that tells what was there. */
export class LogLost extends Error {
  override readonly name = "LogLost";
}

/** Every record from `fromSeq` on, in order. @throws LogHole unless holes are to be passed over */
async function* readRecords(log: Pick<Log, "read">, fromSeq: number, pass?: "pass holes"): AsyncGenerator<LogRecord> {
  let next = fromSeq;
  while (true) {
    const page = await log.read(next, PAGE);
    if (page.length === 0) return;
    for (const record of page) {
      if (pass) next = record.seq;
      if (record.seq !== next) throw new LogHole(`the log goes on at ${record.seq} where ${next} was expected`);
      next++;
      yield record;
    }
  }
}

/** What a log gives: the state as far as its frames go on from each other. */
export interface Recovered {
  readonly durable: Durable;
  /** Hash of each counting frame behind the checkpoint, by sequence. */
  readonly hashes: ReadonlyMap<number, string>;
  /** What the log holds behind it, and why that does not go on from it; undefined if the log ends there. */
  readonly damage: TributaryError | undefined;
}

/** Where a generation of a container begins. */
export async function generationStart(tier: TierReader, generation: number): Promise<Checkpoint> {
  if (generation === 0) return { position: WAL_START, snapshot: undefined, objects: [] };
  const open = await tier.root(generation);
  if (!open) throw new TributaryError("STORE_CORRUPT", `the lake does not know from what generation ${generation} began`);
  return { position: { ...WAL_START, epoch: epochBefore(generation), hash: open.hash }, snapshot: undefined, objects: [] };
}

/**
 * The durable state of a container: the newest checkpoint that counts, then the frames after it (rule C5).
 *
 * Which frames count hangs on the one before, back to where the log begins; but its beginning is truncated. A checkpoint frame
 * names the position through which everything is tiered, so counting can start there, and it proves itself: it must count under
 * its own position, and agree with the log where that still has the record. A deposed owner's checkpoint does not count, because the new
 * owner's fence lies between the two.
 *
 * `holes`: whether records that are missing may be there when the log is read anew.
 *
 * @throws LogLost, LogHole; STORE_CORRUPT of the tier, FORMAT_UNSUPPORTED
 */
export async function recover(log: Log, tier: TierReader, generation: number, holes: "may pass" | "damage"): Promise<Recovered> {
  const { first, last } = await log.state();
  const candidates: { seq: number; checkpoint: Checkpoint }[] = [];
  if (last >= first) {
    for await (const record of readRecords(log, first, holes === "damage" ? "pass holes" : undefined)) {
      if (peekFrameKind(record.data) !== FRAME_KIND.checkpoint) continue;
      const checkpoint = checkpointOf(record);
      const ofGeneration = checkpoint && generationOf(checkpoint.position.epoch) === generation;
      if (ofGeneration && checkpoint.position.seq >= first - 1) candidates.push({ seq: record.seq, checkpoint });
    }
  }
  // Its last records may be gone: then the log says that it ends behind what can be read, and takes nothing at the end that we know.
  const wholeOrDamaged = (recovered: Recovered): Recovered => {
    const { end } = recovered.durable;
    if (recovered.damage || end >= last) return recovered;
    const message = `the log ends at ${last}, and nothing of it can be read behind ${end}`;
    if (holes === "may pass") throw new LogHole(message);
    return { ...recovered, damage: new TributaryError("FRAME_CORRUPT", message, { seq: end + 1 }) };
  };
  let failure: TributaryError | undefined;
  for (const { seq, checkpoint } of candidates.toReversed()) {
    if (!(await agreesWithLog(log, first, checkpoint.position))) {
      failure ??= new TributaryError("FRAME_CORRUPT", `record ${checkpoint.position.seq} is not the one that a checkpoint names`, { seq });
      continue;
    }
    const recovered = await replayFrom(log, tier, checkpoint, holes);
    if (recovered.hashes.has(seq)) return wholeOrDamaged(recovered);
    // Seen from a checkpoint that does not count anything may look corrupt; one before it decides.
    failure = recovered.damage;
  }
  if (first > 1) {
    throw new LogLost(`the WAL begins at ${first} and holds no checkpoint that counts`, { cause: failure });
  }
  return wholeOrDamaged(await replayFrom(log, tier, await generationStart(tier, generation), holes));
}

/**
 * A log that went back may have been filled up to the very end that a forgotten owner knows: then that owner's next frame lands, and counts
 * under its own position, behind frames which that position does not know. The record in its place tells, if it is still there and whole.
 */
async function agreesWithLog(log: Pick<Log, "read">, first: number, { seq, hash }: WalPosition): Promise<boolean> {
  if (seq < first) return true;
  const [record] = await log.read(seq, { recordsMax: 1, bytesMax: PAGE.bytesMax });
  return record?.seq !== seq || !isWhole(record.data) || frameHash(record.data) === hash;
}

function isWhole(data: Uint8Array): boolean {
  try {
    decodeFrame(data);
    return true;
  } catch {
    return false;
  }
}

/** The state at a checkpoint, and the frames of the log that go on from it. @throws STORE_CORRUPT of the tier, FORMAT_UNSUPPORTED, LogHole */
export async function replayFrom(
  log: Pick<Log, "read">,
  tier: TierReader,
  checkpoint: Checkpoint,
  holes: "may pass" | "damage",
): Promise<Recovered> {
  const durable = new Durable(checkpoint, await tier.load(checkpoint));
  const hashes = new Map<number, string>();
  try {
    for await (const landed of replay(log, durable.position, durable.end)) {
      if (landed.frame) hashes.set(landed.seq, landed.frame.position.hash);
      applyLanded(durable, landed);
    }
  } catch (error) {
    if (hasCode(error, "FRAME_CORRUPT")) return { durable, hashes, damage: error };
    if (error instanceof LogHole && holes === "damage") {
      return { durable, hashes, damage: new TributaryError("FRAME_CORRUPT", error.message, {}, { cause: error }) };
    }
    throw error;
  }
  return { durable, hashes, damage: undefined };
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
export async function* replay(log: Pick<Log, "read">, from: WalPosition, end: number): AsyncGenerator<Landed> {
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
    // A block that fails its checks inside a frame whose checksum holds is damage of the frame all the same.
    const code = error.code === "BLOCK_CORRUPT" ? "FRAME_CORRUPT" : error.code;
    throw new TributaryError(code, `record ${record.seq}: ${error.message}`, { ...error.details, seq: record.seq }, { cause: error });
  }
}
