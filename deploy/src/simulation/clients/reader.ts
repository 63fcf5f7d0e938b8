import { hasCode, TributaryError } from "@tributary/common/errors";
import type { ReadEvent, StreamInfo, StreamService } from "@tributary/common/stream-service";
import { digestOf } from "../../check/plain.ts";
import type { Seen } from "../ledger.ts";
import type { SimProcess } from "../process.ts";
import type { StreamShape } from "../shape.ts";
import type { SimWorld } from "../sim-world.ts";
import { nameOf, pause, type Service } from "./client.ts";

const TIMEOUT_MS = 4_000;
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

/** Follows a stream of the core from its beginning on, through everything that happens to the core. */
export function startTailReader(world: SimWorld, name: string, service: Service, stream: StreamShape): void {
  if (!world.allows(name)) return;
  const reader = world.spawn(name);
  const follow = async () => {
    let offset = "-1";
    let streamId = "";
    const next = new Map<string, number>();
    for (;;) {
      try {
        const page = await world.request(reader, service, TIMEOUT_MS, async (streams) => {
          streamId ||= (await streams.describe(stream)).id;
          return streams.read(stream, { offset, ...PAGE });
        });
        for (const event of page.events) {
          const seen = seenOf(world, nameOf(stream), streamId, event);
          notice(world, name, seen);
          const expected = next.get(seen.segment) ?? 0;
          if (seen.ordinal !== expected)
            world.ledger.violate(1, "tail lost its place", `${name}: ordinal ${seen.ordinal} of ${seen.segment} after ${expected - 1}`);
          next.set(seen.segment, seen.ordinal + 1);
        }
        offset = page.nextOffset;
        if (page.upToDate) await waitForData(world, reader, service, stream, offset);
      } catch (error) {
        if (hasCode(error, "OFFSET_UNKNOWN", "OFFSET_GONE", "OFFSET_FOREIGN", "OFFSET_INVALID") && !world.hasZombie) {
          world.ledger.violate(1, "tail lost its place", `${name} at ${offset}: ${error.message}`);
        }
        await pause(world, reader, 500);
      }
    }
  };
  follow().catch((error: unknown) => world.defect(name, error));
}

async function waitForData(world: SimWorld, reader: SimProcess, service: Service, stream: StreamShape, offset: string): Promise<void> {
  await world.request(reader, service, TIMEOUT_MS, (streams) =>
    streams.waitForData(stream, offset, { timeoutMs: 2_000, signal: new AbortController().signal }),
  );
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
        const here = `${name} ${since}`;
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
          world.ledger.noticed({ ...last, streamId: `${last.stream} by ${last.writer} ${last.incarnation}` }, name);
        }
        offset = page.nextOffset;
        if (page.upToDate) await waitForData(world, reader, service, stream, offset);
        if (world.dice.float(`restart of ${name}`) < 0.01) offset = "-1";
      } catch (error) {
        if (hasCode(error, "OFFSET_GONE", "OFFSET_UNKNOWN", "OFFSET_FOREIGN")) offset = "-1";
        await pause(world, reader, 1_000);
      }
    }
  };
  follow().catch((error: unknown) => world.defect(name, error));
}

/** All streams of the core, each from its first event to its last. */
export async function readEverything(
  world: SimWorld,
  reader: SimProcess,
  service: Service,
): Promise<{ info: StreamInfo; records: Seen[] }[]> {
  const streams = await persist(world, reader, service, (core) => core.list({ limit: 1_000 }));
  const result: { info: StreamInfo; records: Seen[] }[] = [];
  for (const info of streams) {
    const records: Seen[] = [];
    for (let offset = "-1", upToDate = false; !upToDate; ) {
      const page = await persist(world, reader, service, (core) => core.read(info.name, { offset, eventsMax: 500, bytesMax: 100_000 }));
      for (const event of page.events) {
        const seen = seenOf(world, nameOf({ ...info.name, segments: 0 }), info.id, event);
        notice(world, reader.name, seen);
        records.push(seen);
      }
      ({ nextOffset: offset, upToDate } = page);
    }
    result.push({ info: await persist(world, reader, service, (core) => core.describe(info.name)), records });
  }
  return result;
}

const TRIES_MAX = 20;

async function persist<T>(world: SimWorld, reader: SimProcess, service: Service, work: (streams: StreamService) => Promise<T>): Promise<T> {
  for (let tries = 1; ; tries++) {
    try {
      return await world.request(reader, service, TIMEOUT_MS, work);
    } catch (error) {
      if (tries >= TRIES_MAX || !(error instanceof TributaryError)) throw error;
      await pause(world, reader, 1_000);
    }
  }
}
