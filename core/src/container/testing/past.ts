import { systemClock } from "@tributary/common/clock";
import { hasCode, TributaryError } from "@tributary/common/errors";
import { formatSegmentId, type Id, type SegmentId } from "@tributary/common/names";
import type { LogRecord } from "@tributary/common/ports/log";
import type { Random } from "@tributary/common/random";
import type { ReadEvent } from "@tributary/common/stream-service";
import { MemoryLog, MemoryObjectStore } from "../../service/testing/memory-engines.ts";
import type { Container } from "../container.ts";
import { createContainer } from "../create-container.ts";
import { generationOf } from "../generation.ts";
import type { ContainerOptions } from "../options.ts";
import { SEGMENT } from "./gateway.ts";

/** A log that can be set back to what it was. */
export class RestorableLog extends MemoryLog {
  save(): { records: LogRecord[]; last: number } {
    return { records: [...this.records], last: this.last };
  }

  restore({ records, last }: { records: readonly LogRecord[]; last: number }): void {
    this.records = [...records];
    this.last = last;
  }

  /** Puts other bytes in the place of a record, or takes it away. */
  damage(seq: number, bytes: Uint8Array | undefined): void {
    this.records = this.records.flatMap((record) => (record.seq !== seq ? [record] : bytes ? [{ seq, data: bytes }] : []));
  }
}

export interface SavedPast {
  readonly logs: ReadonlyMap<number, ReturnType<RestorableLog["save"]>>;
  readonly epoch: number;
}

const CONTAINER = 5;
const OPENINGS_MAX = 12;
export const PAST_STREAMS: readonly Id[] = ["a".repeat(32), "b".repeat(32)];
export const SEGMENTS: readonly SegmentId[] = [SEGMENT, { ...SEGMENT, number: 1 }];
const NEVER = 3_600_000;

/** One container's log, epochs and lake. Log and epochs can be set back, the lake cannot. */
export class Past {
  readonly objects: MemoryObjectStore = new MemoryObjectStore();
  readonly logs: Map<number, RestorableLog> = new Map();
  /** What the MetaStore says of the owner. */
  epoch = 0;
  readonly #random: Random;
  readonly #contents = new Map<string, string>();

  constructor(random: Random) {
    this.#random = random;
  }

  save(): SavedPast {
    return { logs: new Map([...this.logs].map(([generation, log]) => [generation, log.save()])), epoch: this.epoch };
  }

  /** Logs that came into being later are gone, too. */
  restoreLogs(saved: SavedPast): void {
    for (const [generation, log] of this.logs) log.restore(saved.logs.get(generation) ?? { records: [], last: 0 });
  }

  log(generation: number): RestorableLog {
    let log = this.logs.get(generation);
    if (!log) {
      log = new RestorableLog();
      this.logs.set(generation, log);
    }
    return log;
  }

  get generation(): number {
    return generationOf(this.epoch);
  }

  create(options: Partial<ContainerOptions> = {}): Container {
    return createContainer({
      id: CONTAINER,
      epoch: this.epoch,
      log: this.log(this.generation),
      objects: this.objects,
      clock: systemClock,
      random: this.#random,
      options: { flushIntervalMs: NEVER, flushBytes: 2 ** 40, ...options },
    });
  }

  /** As a host does: wins one epoch after the other until the container serves. */
  async open(options: Partial<ContainerOptions> = {}): Promise<Container> {
    for (let tries = 0; ; tries++) {
      this.epoch++;
      const container = this.create(options);
      try {
        await container.open();
        for (const id of PAST_STREAMS) {
          await container.ensureStream({ id, segments: SEGMENTS, contentType: "text/plain", closed: false });
        }
        return container;
      } catch (error) {
        // Where an owner that was deposed still writes, the first try may be in vain.
        if (!hasCode(error, "CONTAINER_NOT_OWNED", "OVERLOADED") || tries >= OPENINGS_MAX) throw error;
        const { epoch } = error.details;
        if (typeof epoch === "number") this.epoch = Math.max(this.epoch, epoch);
      }
    }
  }

  /** All events of a stream, each checked against what was ever read in its place. */
  async read(container: Container, streamId: Id): Promise<ReadEvent[]> {
    const events: ReadEvent[] = [];
    for (;;) {
      const page = await container.read(streamId, events.length, { eventsMax: 50, bytesMax: 1_000_000 });
      if (page.nextChain !== events.length + page.events.length) throw new Error("the chain has a hole");
      if (page.events.length === 0) break;
      events.push(...page.events);
    }
    const next = new Map<string, number>();
    for (const event of events) {
      const ordinal = next.get(event.segment) ?? 0;
      if (event.ordinal !== ordinal) throw new Error(`segment ${event.segment} goes on at ${event.ordinal}, not ${ordinal}`);
      next.set(event.segment, ordinal + 1);
      const place = `${streamId} ${event.segment} ${event.nonce} ${event.ordinal}`;
      const content = `${event.writer} ${event.incarnation} ${event.number} ${textOf(event)}`;
      const before = this.#contents.get(place);
      if (before !== undefined && before !== content) throw new Error(`at ${place} stood ${before}, now ${content}`);
      this.#contents.set(place, content);
    }
    for (const { segment, length } of container.describe(streamId)?.segmentLengths ?? []) {
      if ((next.get(formatSegmentId(segment)) ?? 0) !== length) throw new Error("a segment has another length than events");
    }
    return events;
  }

  async texts(container: Container, streamId: Id = PAST_STREAMS[0] as Id): Promise<string[]> {
    return (await this.read(container, streamId)).map(textOf);
  }
}

export function textOf(event: ReadEvent): string {
  return Buffer.from(event.data).toString();
}

/** Resolves when the condition holds. */
export async function until(condition: () => boolean): Promise<void> {
  for (let turns = 0; !condition(); turns++) {
    if (turns > 20_000) throw new TributaryError("INTERNAL", "nothing happens any more");
    await new Promise((resolve) => setImmediate(resolve));
  }
}
