import { hasCode, TributaryError } from "@tributary/common/errors";
import type { Slice } from "@tributary/common/format/block";
import type { Logger } from "@tributary/common/logger";
import type { Id } from "@tributary/common/names";
import type { Log } from "@tributary/common/ports/log";
import type { ObjectStore } from "@tributary/common/ports/object-store";
import type { FoundObject, LakeHistory } from "../tier/lake-history.ts";
import { quarantineName, rootNames } from "../tier/object-names.ts";
import { encodeRoot, type GoneBackReason, type KnownLoss, segmentEnds } from "../tier/root-object.ts";
import type { TierReader } from "../tier/tier-reader.ts";
import { flushUnrecorded } from "../tier/unrecorded-flush.ts";
import type { WalPosition } from "./counting.ts";
import type { Durable } from "./durable.ts";
import { fence, fenceDamaged } from "./fence.ts";
import { frameHash } from "./frame-hash.ts";
import { epochBefore, generationOf } from "./generation.ts";
import { eventsAdded, type Operation } from "./operations.ts";
import { applyLanded, LogHole, LogLost, type Recovered, recover, replayFrom } from "./recovery.ts";
import { decodeFrame } from "./wal-frame.ts";

export interface TakeOverParts {
  readonly container: number;
  readonly epoch: number;
  readonly nonce: Id;
  /** Of the epoch's generation. */
  readonly log: Log;
  readonly objects: ObjectStore;
  readonly tier: TierReader;
  readonly lake: LakeHistory;
  /** Resolves once the epoch is this owner's alone: nothing is written before. */
  readonly claimed: Promise<void>;
  readonly nowMs: () => number;
  readonly logger: Logger | undefined;
}

/** The owner before may truncate records while we read them, and other owners may append: then the log is read anew. */
const TRIES_MAX = 5;

/** What log and lake show. */
interface Finding {
  /** What the log gives; undefined if that is nothing. */
  readonly recovered: Recovered | undefined;
  /** undefined: log and lake agree. */
  readonly reason: GoneBackReason | undefined;
  readonly detail: string;
  /** Objects that the log should know and does not; undefined if the lake was not looked at. */
  readonly suspects: readonly FoundObject[] | undefined;
  /** Sequence of a record that fails its checks. */
  readonly damagedSeq: number | undefined;
}

/**
 * The state from which a new owner goes on. If the log went back or is damaged, the container goes on in a new generation (rule L5): its
 * root is made, and the error says so.
 * @throws CONTAINER_NOT_OWNED with details epoch: another epoch must be won, perhaps of a later generation; STORE_CORRUPT,
 *   FORMAT_UNSUPPORTED, and what log and object store throw when they cannot be reached
 */
export async function recoverOrRaise(parts: TakeOverParts): Promise<Durable> {
  await refuseEndedGeneration(parts);
  let finding = await look(parts, undefined);
  // Looked at again: what a live owner did meanwhile, or what was only read wrongly, must not be taken for a loss.
  for (
    let tries = 1, seenBefore: GoneBackReason | undefined;
    finding.reason && finding.reason !== seenBefore && tries < TRIES_MAX;
    tries++
  ) {
    seenBefore = finding.reason;
    finding = await look(parts, finding.suspects);
  }
  if (!finding.reason && finding.recovered) return finding.recovered.durable;
  await parts.claimed;
  await keepDamagedRecord(parts, finding);
  return raise(parts, finding);
}

/** The root of a later generation ends this one, whatever the MetaStore remembers. */
async function refuseEndedGeneration({ container, epoch, tier }: TakeOverParts): Promise<void> {
  const own = generationOf(epoch);
  let newest = own;
  while (await tier.root(newest + 1)) newest++;
  if (newest > own) throw ended(container, newest);
}

function ended(container: number, generation: number): TributaryError {
  return new TributaryError("CONTAINER_NOT_OWNED", `container ${container} goes on in generation ${generation}`, {
    epoch: epochBefore(generation),
  });
}

/** `before`: suspects that were found before the log is read here, so that it must know them if it is whole. */
async function look(parts: TakeOverParts, before: readonly FoundObject[] | undefined): Promise<Finding> {
  const { log, lake, tier, epoch } = parts;
  const nothing = { recovered: undefined, suspects: undefined, damagedSeq: undefined };
  let recovered: Recovered;
  try {
    recovered = await recoverSettled(log, tier, generationOf(epoch));
  } catch (error) {
    if (!(error instanceof LogLost)) throw error;
    // A lake without any object would not be the one that this log was truncated for.
    if (!(await lake.newest(generationOf(epoch)))) throw new TributaryError("STORE_CORRUPT", error.message, {}, { cause: error });
    return { ...nothing, reason: "log-lost", detail: error.message };
  }
  const { durable, damage } = recovered;
  const suspects = before?.filter((object) => !isKnown(recovered, object)) ?? (await findSuspects(parts, recovered));
  if (damage) {
    const seq = damage.details["seq"];
    return { recovered, suspects, reason: "log-damaged", detail: damage.message, damagedSeq: typeof seq === "number" ? seq : undefined };
  }
  const found = { recovered, suspects, damagedSeq: undefined };
  if (suspects.length > 0) {
    const detail = `the lake has events up to WAL record ${suspects[0]?.position.seq}, the log ends at ${durable.end} with others`;
    return { ...found, reason: durable.end === 0 ? "log-lost" : "lake-ahead", detail };
  }
  if (durable.endsGeneration) return { ...found, reason: "generation-ended", detail: "an owner began to end the generation" };
  return { ...found, reason: undefined, detail: "" };
}

async function recoverSettled(log: Log, tier: TierReader, generation: number): Promise<Recovered> {
  for (let tries = 1; ; tries++) {
    try {
      return await recover(log, tier, generation, tries < TRIES_MAX ? "may pass" : "damage");
    } catch (error) {
      if (!(error instanceof LogHole)) throw error;
    }
  }
}

/** Objects of the lake that the log should know and does not. Those of owners before its last one were left behind: they prove nothing. */
async function findSuspects({ lake }: TakeOverParts, recovered: Recovered): Promise<FoundObject[]> {
  const { historyEnd, lastObject } = recovered.durable;
  const suspects: FoundObject[] = [];
  for await (const object of lake.newestObjects(historyEnd, lastObject)) if (!isKnown(recovered, object)) suspects.push(object);
  return suspects;
}

function isKnown({ durable, hashes }: Recovered, { position }: FoundObject): boolean {
  // What lies before the checkpoint is in the tier, by this object or by another.
  return position.seq <= durable.checkpoint.position.seq || hashes.get(position.seq) === position.hash;
}

/** A copy of the record that fails its checks, for whoever has to find out why. Best effort. */
async function keepDamagedRecord({ container, epoch, log, objects }: TakeOverParts, { damagedSeq }: Finding): Promise<void> {
  if (damagedSeq === undefined) return;
  try {
    const [record] = await log.read(damagedSeq, { recordsMax: 1, bytesMax: 1 });
    if (record?.seq !== damagedSeq) return;
    await objects.put(quarantineName(generationOf(epoch), container, damagedSeq, frameHash(record.data)), record.data);
  } catch {
    // It is there already, or log or store are out of order as well; the log line tells the sequence.
  }
}

/**
 * Ends the generation and makes the root of the next one. Every step may be repeated, by this owner or another: the fence at the end of
 * the old log keeps everybody from appending there, and the root that is put first decides.
 */
async function raise(parts: TakeOverParts, finding: Finding): Promise<never> {
  const { container, epoch, log, objects, tier, lake, nowMs, logger } = parts;
  const generation = generationOf(epoch);
  const attempt = await endLog(parts, finding.recovered);
  // Looked for again: until the log was ended an owner could bring more into the lake.
  const best = await bestState(finding.recovered, () => lakeState(lake, tier, log, generation));
  const { state } = best.durable;
  const { recovered } = finding;
  const behind = recovered && !recovered.damage ? new Map<Id, number>() : await chainsBehind(log, recovered?.durable.end ?? 0);
  const losses = knownLosses(best, behind);
  const base = await flushUnrecorded(objects, { container, epoch, attempt }, best.durable);
  const next = generation + 1;
  const reason = finding.reason ?? "generation-ended";
  const root = { container, generation: next, epoch, base, raisedAtMs: nowMs(), reason, ends: segmentEnds(state), losses };
  await putRoot(parts, next, encodeRoot(root));
  logger?.error("a container's log went back; it goes on in a new generation from what log and lake still have", {
    container,
    generation: next,
    reason,
    detail: finding.detail,
    recoveredThroughSeq: best.durable.historyEnd.seq,
    streamsWithKnownLoss: losses.length,
  });
  throw ended(container, next);
}

/** Returns the attempt under which the log was ended. */
async function endLog({ container, epoch, nonce, log }: TakeOverParts, recovered: Recovered | undefined): Promise<number> {
  const takeOver: Operation = { type: "take-over", nonce, endsGeneration: true };
  const owner = { container, epoch, takeOver };
  const { signal } = new AbortController();
  for (let tries = 1; ; tries++) {
    try {
      if (!recovered || recovered.damage) return await fenceDamaged(log, owner, recovered?.durable.position.hash);
      const { landed, fence: position } = await fence(log, owner, recovered.durable, signal);
      for (const record of landed) applyLanded(recovered.durable, record);
      return position.attempt;
    } catch (error) {
      if (!hasCode(error, "LOG_SEQUENCE_MISMATCH") || tries >= TRIES_MAX) throw error;
    }
  }
}

interface BestState {
  readonly durable: Durable;
  /** The other one. */
  readonly other: Durable | undefined;
}

/** Log or lake, whichever is further. */
async function bestState(recovered: Recovered | undefined, ofLake: () => Promise<Durable | undefined>): Promise<BestState> {
  const lake = await ofLake();
  const log = recovered?.durable;
  if (log && (!lake || comparePositions(log.historyEnd, lake.historyEnd) >= 0)) return { durable: log, other: lake };
  if (!lake) throw new TributaryError("STORE_CORRUPT", "neither log nor lake have a state of the container");
  return { durable: lake, other: log };
}

/** The newest state of the lake, and what the log still has behind it. */
async function lakeState(lake: LakeHistory, tier: TierReader, log: Log, generation: number): Promise<Durable | undefined> {
  const newest = await lake.newest(generation);
  if (!newest) return undefined;
  return (await replayFrom(log, tier, newest, "damage")).durable;
}

function comparePositions(a: WalPosition, b: WalPosition): number {
  return a.epoch - b.epoch || a.attempt - b.attempt || a.number - b.number;
}

/** How far streams went by the intact frames behind where the log cannot be followed any more. */
async function chainsBehind(log: Log, seq: number): Promise<Map<Id, number>> {
  const chains = new Map<Id, number>();
  for (let next = seq + 1; ; ) {
    const page = await log.read(next, { recordsMax: 512, bytesMax: 16_777_216 });
    for (const record of page) {
      next = record.seq + 1;
      for (const operation of operationsOf(record.data)) {
        if (operation.type !== "append-block") continue;
        for (const decision of operation.decisions) {
          const slice = operation.block.slices.at(decision.slice) as Slice;
          const end = decision.chain + eventsAdded(slice, decision);
          chains.set(slice.streamId, Math.max(chains.get(slice.streamId) ?? 0, end));
        }
      }
    }
    if (page.length === 0) return chains;
  }
}

function operationsOf(data: Uint8Array): readonly Operation[] {
  try {
    return decodeFrame(data).operations;
  } catch {
    return [];
  }
}

function knownLosses({ durable, other }: BestState, behind: Map<Id, number>): KnownLoss[] {
  const chains = new Map(behind);
  for (const { id, chain } of other?.state.streams.values() ?? []) chains.set(id, Math.max(chains.get(id) ?? 0, chain));
  return [...chains].flatMap(([streamId, to]) => {
    if (durable.state.tombstones.has(streamId)) return [];
    const from = durable.state.streams.get(streamId)?.chain ?? 0;
    return to > from ? [{ streamId, from, to }] : [];
  });
}

async function putRoot({ container, objects, tier }: TakeOverParts, generation: number, bytes: Uint8Array): Promise<void> {
  for (const name of rootNames(container, generation)) {
    try {
      await objects.put(name, bytes);
    } catch (error) {
      if (!hasCode(error, "OBJECT_EXISTS", "LOG_RESULT_UNKNOWN")) throw error;
    }
    // Whoever's it is: it can be read, or the generation must not begin.
    if (await tier.root(generation)) return;
    if (!(await objects.head(name))) break;
  }
  throw new TributaryError("LOG_RESULT_UNKNOWN", "the root of the generation may not be stored");
}
