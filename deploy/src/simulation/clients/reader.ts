import { sleep } from "@tributary/common/clock";
import { hasCode, TributaryError } from "@tributary/common/errors";
import type { StreamName } from "@tributary/common/names";
import type { ReadEvent, ReadLevel, StreamInfo, StreamService } from "@tributary/common/stream-service";
import { decodeStreamRecord, nameOfKey, STREAMS_PREFIX, streamKey } from "@tributary/core/service/stream-record";
import { digestOf } from "../../check/plain.ts";
import type { Seen } from "../ledger.ts";
import type { SimProcess } from "../process.ts";
import type { StreamShape } from "../shape.ts";
import type { SimWorld, Tail } from "../sim-world.ts";
import { nameOf, pause, type Service } from "./client.ts";

const TIMEOUT_MS = 4_000;
const WAIT_MS = 2_000;
/** How often a wait is looked after, and how long it may go on once there is something. */
const WATCH_MS = 300;
const WAKE_MS_MAX = 50;
/** A node whose lease ran out and was renewed looks again after half a second. */
const CORE_WAKE_MS_MAX = 600;
const PAGE = { eventsMax: 60, bytesMax: 8_000 };

export function seenOf(world: SimWorld, stream: string, streamId: string, event: ReadEvent): Seen {
  const { segment, ordinal, nonce, writer, incarnation, lane, number, key, gap } = event;
  const plain = { segment, ordinal, nonce, writer, incarnation, lane, number, key };
  const record = { ...plain, gap: gap && { first: gap.first, count: gap.count } };
  return { stream, streamId, ...record, id: gap ? -1 : world.ledger.identify(event.data), digest: digestOf(record, event.data) };
}

/** Notices a page of the core: the same for all readers for ever, and nothing but what counts. */
function notice(world: SimWorld, reader: string, seen: Seen): void {
  world.ledger.noticed(seen, reader);
  world.lake.judge(seen, reader);
}

/**
 * Follows a stream of the core from its beginning on, through everything that happens to the core; of a name that comes again, the next one.
 * At level tiered everything that it reads is in the lake, and it never has to go back unless that is damaged.
 */
export function startTailReader(world: SimWorld, name: string, service: Service, stream: StreamShape, level: ReadLevel): void {
  if (!world.allows(name)) return;
  const reader = world.spawn(name);
  const { fates, ledger } = world;
  const follow = async () => {
    let offset = "-1";
    let streamId = "";
    const tail: Tail = { name, streamId, records: [] };
    world.tails.set(name, tail);
    const next = new Map<string, number>();
    /** The record that was read where it had to go on from, before it was lost. */
    let lost: Seen | undefined;
    for (;;) {
      try {
        const beganMs = world.nowMs;
        const page = await world.request(reader, service, TIMEOUT_MS, async (streams) => {
          const read = await streams.read(stream, { offset, ...PAGE, level });
          if (!isOf(streamId, read.nextOffset)) streamId = (await streams.describe(stream)).id;
          return read;
        });
        fates.learn(nameOf(stream), streamId);
        // Deleted and created again between the two.
        if (!isOf(streamId, page.nextOffset)) continue;
        fates.judgeRead(streamId, beganMs, name);
        if (tail.streamId !== streamId) tail.records = [];
        tail.streamId = streamId;
        for (const event of page.events) {
          const seen = seenOf(world, nameOf(stream), streamId, event);
          notice(world, name, seen);
          const expected = next.get(seen.segment) ?? 0;
          if (seen.ordinal !== expected)
            ledger.violate(1, "tail lost its place", `${name}: ordinal ${seen.ordinal} of ${seen.segment} after ${expected - 1}`);
          next.set(seen.segment, seen.ordinal + 1);
          if (level === "tiered" && seen.id >= 0 && !world.lake.tiered.has(seen.id))
            ledger.violate(1, "read before it was tiered", `${name} reads event ${seen.id}, which is in no object`);
          if (lost && isSame(lost, seen)) ledger.violate(3, "set back too far", `${name} reads ${seen.segment} ${seen.ordinal} again`);
          lost = undefined;
          tail.records.push(seen);
        }
        offset = page.nextOffset;
        // Nothing will come behind the end; but the name may get another stream.
        if (page.closed) await pause(world, reader, 2_000);
        else if (page.upToDate) await waitForData(world, reader, service, { stream, offset, level });
      } catch (error) {
        const mayGoBack = world.wentBack && (level === "committed" || isDamaged(world, stream));
        const common = mayGoBack && hasCode(error, "OFFSET_UNKNOWN") ? error.details["nextOffset"] : undefined;
        if (typeof common === "string") {
          // What it has read beyond is lost; what counts is the same up to there.
          const chain = chainOf(common);
          world.trace(name, `${error} (it was at ${offset})`);
          if (chain > tail.records.length) ledger.violate(1, "tail lost its place", `${name} at ${offset} is told to go on at ${common}`);
          lost = tail.records[chain];
          tail.records.length = Math.min(chain, tail.records.length);
          next.clear();
          for (const { segment, ordinal } of tail.records) next.set(segment, ordinal + 1);
          offset = common;
          continue;
        }
        // Where the MetaStore went back the name may have got another stream.
        const mayBeGone = fates.wasAsked("core", nameOf(stream)) || world.wentBack;
        if (mayBeGone && hasCode(error, "OFFSET_FOREIGN", "STREAM_UNKNOWN", "STREAM_GONE")) {
          offset = "-1";
          next.clear();
          tail.records = [];
        } else if (hasCode(error, "OFFSET_UNKNOWN", "OFFSET_GONE", "OFFSET_FOREIGN", "OFFSET_INVALID")) {
          ledger.violate(1, "tail lost its place", `${name} at ${offset}: ${error.message}`);
        }
        await pause(world, reader, 500);
      }
    }
  };
  follow().catch((error: unknown) => world.defect(name, error));
}

/** Something that the lake had of the stream's container is damaged for good: no level outlives that together with the log. */
function isDamaged(world: SimWorld, stream: StreamName): boolean {
  const record = world.meta.at(streamKey(stream), world.nowMs);
  const container = record && decodeStreamRecord(record.key, record.value).containers[0];
  return container !== undefined && world.damaged.has(container);
}

/** Records that are read before the offset. */
function chainOf(offset: string): number {
  return Number(offset.split("_")[1]);
}

function isSame(one: Seen, other: Seen): boolean {
  return one.segment === other.segment && one.ordinal === other.ordinal && one.nonce === other.nonce;
}

/** Offsets name their stream with the first digits of its id. */
function isOf(streamId: string, offset: string): boolean {
  return streamId !== "" && offset.split("_")[2]?.startsWith(streamId.slice(0, 8)) === true;
}

/**
 * Waits for something new, and watches that the server does not let it wait while there is something. A node of the core that asks
 * another one may: its request, or the answer, can be lost.
 */
async function waitForData(
  world: SimWorld,
  reader: SimProcess,
  service: Service,
  /** Without a level: at a gateway. */
  { stream, offset, level }: { readonly stream: StreamShape; readonly offset: string; readonly level: ReadLevel | undefined },
): Promise<void> {
  const atCore = level !== undefined;
  const target = service();
  await world.request(
    reader,
    () => target,
    TIMEOUT_MS,
    async (streams) => {
      const { process } = target;
      const clock = process?.clock;
      let waiting = true;
      const watch = async () => {
        for (let seen = 0; waiting && clock; ) {
          // What has to ask a slow MetaStore where the stream is waits for that first.
          const isFree = (await hasMore(streams, stream, offset, level)) && process && !world.meta.isAskedBy(process);
          const mustWake = isFree && (!atCore || world.isOwner(process, stream));
          seen = mustWake ? seen + 1 : 0;
          if (!waiting) return;
          if (seen > 1) return world.ledger.violate(1, "tail not woken", `${reader.name} waits at ${offset} of ${nameOf(stream)}`);
          await sleep(clock, seen === 0 ? WATCH_MS : atCore ? CORE_WAKE_MS_MAX : WAKE_MS_MAX);
        }
      };
      void watch();
      try {
        await streams.waitForData(stream, offset, { timeoutMs: WAIT_MS, signal: new AbortController().signal, level });
      } finally {
        waiting = false;
      }
    },
  );
}

/** Something lies behind the offset, or the stream has ended there. */
async function hasMore(streams: StreamService, stream: StreamShape, offset: string, level: ReadLevel | undefined): Promise<boolean> {
  try {
    if (level === "tiered") {
      const { events, closed } = await streams.read(stream, { offset, eventsMax: 1, bytesMax: 1, level });
      return events.length > 0 || closed;
    }
    const { id, nextOffset, closed } = await streams.describe(stream);
    return isOf(id, offset) && (nextOffset > offset || closed);
  } catch {
    return false;
  }
}

/** Reads a gateway's own copy now and then, from its beginning to its end. */
export function startGatewayReader(world: SimWorld, name: string, service: Service, stream: StreamShape, lineage: () => number): void {
  if (!world.allows(name)) return;
  const reader = world.spawn(name);
  const follow = async () => {
    // Read last, before the offset; and the ordinal behind it.
    let last: Seen | undefined;
    let expected: number | undefined;
    for (let offset = "-1"; ; ) {
      try {
        if (offset === "-1") last = expected = undefined;
        const since = lineage();
        const page = await world.request(reader, service, TIMEOUT_MS, (streams) => streams.read(stream, { offset, ...PAGE }));
        if (since !== lineage()) continue;
        const which = page.nextOffset.split("_")[2];
        const here = `${name} ${since} ${which}`;
        // An offset from before the gateway was set back, and taken: then what was read before it stands as it stood.
        if (last && last.streamId !== here) world.ledger.noticed({ ...last, streamId: here }, name);
        for (const event of page.events) {
          if (expected !== undefined && event.ordinal !== expected)
            world.ledger.violate(1, "reader lost its place", `${name} reads ordinal ${event.ordinal} where ${expected} comes next`);
          expected = event.ordinal + (event.gap?.count ?? 1);
          // What damage took away is told in other words once more is known.
          if (event.gap) continue;
          last = seenOf(world, nameOf(stream), here, event);
          world.ledger.noticed(last, name);
          // Whoever of the branches of a writer tells of an incarnation's ordinal tells the same.
          world.ledger.noticed({ ...last, streamId: `${last.stream} by ${which} ${last.incarnation}` }, name);
        }
        offset = page.nextOffset;
        // Nothing will come behind the end; but the name may get another stream.
        if (page.closed) await pause(world, reader, 2_000);
        else if (page.upToDate) await waitForData(world, reader, service, { stream, offset, level: undefined });
        if (world.dice.float(`restart of ${name}`) < 0.01) offset = "-1";
      } catch (error) {
        if (hasCode(error, "OFFSET_GONE", "OFFSET_UNKNOWN", "OFFSET_FOREIGN")) offset = "-1";
        await pause(world, reader, 1_000);
      }
    }
  };
  follow().catch((error: unknown) => world.defect(name, error));
}

export interface ReadThrough {
  readonly reads: readonly { readonly info: StreamInfo; readonly records: readonly Seen[] }[];
  /** Streams that cannot be read because of damage, and the server says so, or that wait to be deleted for it: the name of each id. */
  readonly unreadable: ReadonlyMap<string, string>;
}

/** All streams of the core, each from its first event to its last. */
export async function readEverything(world: SimWorld, reader: SimProcess, service: Service): Promise<ReadThrough> {
  const reads: { info: StreamInfo; records: Seen[] }[] = [];
  const unreadable = new Map<string, string>();
  const silent = new Set<number>();
  const listed = await listAll(world, reader, service);
  for (const { name, id, container, deleting } of listed) {
    // Nobody may read it any more.
    if (deleting) continue;
    const damaged = world.damaged.has(container);
    // A container that is not served: no need to wait for each of its streams.
    if (silent.has(container)) {
      unreadable.set(id, nameOf(name));
      continue;
    }
    const ask = <T>(work: (streams: StreamService) => Promise<T>) => persist(world, reader, service, work, damaged ? 4 : TRIES_MAX);
    const records: Seen[] = [];
    try {
      for (let offset = "-1", upToDate = false; !upToDate; ) {
        const page = await ask((core) => core.read(name, { offset, eventsMax: 500, bytesMax: 100_000 }));
        for (const event of page.events) {
          const seen = seenOf(world, nameOf(name), id, event);
          notice(world, reader.name, seen);
          records.push(seen);
        }
        ({ nextOffset: offset, upToDate } = page);
      }
      reads.push({ info: await ask((core) => core.describe(name)), records });
    } catch (error) {
      if (!damaged || !hasCode(error, ...DAMAGE)) throw error;
      unreadable.set(id, nameOf(name));
      if (hasCode(error, "BUS_TIMEOUT", "CONTAINER_NOT_OWNED")) silent.add(container);
    }
  }
  // The deletion waits for the container, which has all of it meanwhile.
  const { outOfService } = world;
  for (const { name, id, container, deleting } of listed)
    if (deleting && outOfService.includes(container)) unreadable.set(id, nameOf(name));
  return { reads, unreadable };
}

/** What a server may say of what is damaged. It waits for a container that may be served soon, somewhere. */
const DAMAGE = ["BUS_TIMEOUT", "CONTAINER_NOT_OWNED", "STORE_CORRUPT", "FRAME_CORRUPT", "BLOCK_CORRUPT"] as const;
const TRIES_MAX = 20;

interface Listed {
  readonly name: StreamName;
  readonly id: string;
  readonly container: number;
  /** Somebody asked for it, and it is not done. */
  readonly deleting: boolean;
}

/** What is damaged is missing from no list; but a server that does not serve a container cannot list its streams. */
async function listAll(world: SimWorld, reader: SimProcess, service: Service): Promise<Listed[]> {
  if (world.damaged.size === 0) {
    const infos = await persist(world, reader, service, (core) => core.list({ limit: 1_000 }), TRIES_MAX);
    return infos.map(({ name, id }) => ({ name, id, container: -1, deleting: false }));
  }
  return world.meta.listAt(STREAMS_PREFIX, world.nowMs).flatMap(({ key, value }) => {
    const { id, state, containers } = decodeStreamRecord(key, value);
    return state === "deleted" ? [] : [{ name: nameOfKey(key), id, container: containers[0] ?? -1, deleting: state === "deleting" }];
  });
}

async function persist<T>(
  world: SimWorld,
  reader: SimProcess,
  service: Service,
  work: (streams: StreamService) => Promise<T>,
  triesMax: number,
): Promise<T> {
  for (let tries = 1; ; tries++) {
    try {
      return await world.request(reader, service, TIMEOUT_MS, work);
    } catch (error) {
      if (tries >= triesMax || !(error instanceof TributaryError)) throw error;
      await pause(world, reader, 1_000);
    }
  }
}
