import { sleep } from "@tributary/common/clock";
import { hasCode, TributaryError } from "@tributary/common/errors";
import type { AppendRequest, AppendResult, StreamService } from "@tributary/common/stream-service";
import type { Submission } from "../ledger.ts";
import type { SimProcess } from "../process.ts";
import type { StreamShape } from "../shape.ts";
import type { SimWorld } from "../sim-world.ts";
import { compose, nameOf, nextOperation, optionsOf, pause, type Service, startClient, type Workplace } from "./client.ts";

const TIMEOUT_MS = 3_000;

interface Own {
  readonly stream: StreamShape;
  /** Stream-Seq of the last append. */
  seq: number;
  appends: number;
  closed: boolean;
}

/**
 * Writes streams of its own in turn, each append with the next Stream-Seq, and closes each after a few, with events or without. What
 * comes with an old Stream-Seq, and whatever comes after the end, must be refused ever after.
 */
export function startCloser(world: SimWorld, name: string, service: Service, at: Workplace): void {
  const { dice } = world;
  const own: Own[] = [];
  startClient(world, name, async (client) => {
    const caller = new Caller(world, client, service, at);
    while (await nextOperation(world, client)) {
      const closed = own.filter((candidate) => candidate.closed);
      if (closed.length > 0 && dice.float(`probe of ${name}`) < 0.4) {
        await caller.probeClosed(dice.pick(`probed by ${name}`, closed).stream);
        continue;
      }
      let current = own.find((candidate) => !candidate.closed);
      if (!current) {
        const stream = { scope: "plant", stream: `ends-${name}-${own.length}`, segments: dice.integer(`segments of ${name}`, 1, 2) };
        current = { stream, seq: 0, appends: dice.integer(`appends of ${name}`, 1, 6), closed: false };
        own.push(current);
      }
      if (current.seq > 0 && dice.float(`stale of ${name}`) < 0.15) {
        await caller.probeStale(current);
        continue;
      }
      const ends = current.appends-- <= 0;
      if (!(await caller.append(current, ends, !ends || dice.float(`end of ${name}`) < 0.5))) return;
      current.closed = ends;
    }
  });
}

/** Closes a stream that others write, once. */
export function startEnder(world: SimWorld, name: string, service: Service, at: Workplace): void {
  startClient(world, name, async (client) => {
    await sleep(client.clock, world.dice.between(`pause of ${name}`, 4_000, 14_000));
    const caller = new Caller(world, client, service, at);
    const stream = world.dice.pick(`stream of ${name}`, at.streams);
    if (world.working) await caller.close(stream);
    while (await nextOperation(world, client)) await caller.probeClosed(stream);
  });
}

class Caller {
  readonly #world: SimWorld;
  readonly #client: SimProcess;
  readonly #service: Service;
  readonly #at: Workplace;

  constructor(world: SimWorld, client: SimProcess, service: Service, at: Workplace) {
    this.#world = world;
    this.#client = client;
    this.#service = service;
    this.#at = at;
  }

  /** Until it is answered. A Stream-Seq that is refused as old, after its answer got lost, says that the append is there. */
  async append(own: Own, close: boolean, withEvents: boolean): Promise<boolean> {
    const { ledger } = this.#world;
    const { stream } = own;
    const { submissions, pack } = this.#compose(stream, withEvents);
    const streamSeq = seqText(++own.seq);
    for (let attempt = 1; !this.#world.hopeless; attempt++) {
      ledger.sent(submissions);
      const request = { events: pack, contentType: undefined, streamSeq, close };
      try {
        const { closed } = await this.#append(stream, request, submissions);
        if (closed !== close) ledger.violate(1, "closed wrongly", `${nameOf(stream)} is ${closed ? "" : "not "}closed by '${streamSeq}'`);
        return true;
      } catch (error) {
        if (hasCode(error, "STREAM_UNKNOWN")) {
          // An old read of the MetaStore may not show it yet; then it is found again.
          const created = await this.#create(stream);
          if (created && own.seq > 1 && !this.#excused(stream)) ledger.violate(1, "forgot a stream", nameOf(stream));
          continue;
        }
        if (hasCode(error, "SEQUENCE_CONFLICT") || (hasCode(error, "STREAM_CLOSED") && close)) {
          if (attempt === 1 && !this.#excused(stream))
            ledger.violate(1, "called old", `'${streamSeq}' of ${nameOf(stream)}: ${error.message}`);
          ledger.acknowledge(submissions, this.#at.lastSeq());
          return true;
        }
        if (!(error instanceof TributaryError) || !error.retryable) {
          ledger.violate(0, "unexpected answer", `${this.#client.name}: ${error}`);
          return false;
        }
        await pause(this.#world, this.#client, Math.min(2_000, 100 * 2 ** attempt));
      }
    }
    return false;
  }

  async close(stream: StreamShape): Promise<void> {
    this.#world.fates.askToClose(this.#at.writer(), nameOf(stream));
    while (!this.#world.hopeless) {
      try {
        await this.#append(stream, { events: undefined, contentType: undefined, close: true }, []);
        this.#world.trace(this.#client.name, `${nameOf(stream)} is closed`);
        return;
      } catch (error) {
        if (hasCode(error, "STREAM_UNKNOWN")) await this.#create(stream);
        await pause(this.#world, this.#client, 1_000);
      }
    }
  }

  /** With a Stream-Seq that was used: refused, or there is nothing. */
  async probeStale(own: Own): Promise<void> {
    await this.#mustFail(own.stream, { streamSeq: seqText(own.seq) }, "an old Stream-Seq was taken");
  }

  /** Nothing is appended, to close it again changes nothing, and readers see that it is closed. */
  async probeClosed(stream: StreamShape): Promise<void> {
    const { dice, ledger } = this.#world;
    if (dice.float(`how ${this.#client.name} probes`) < 0.5) return this.#mustFail(stream, {}, "appended to a closed stream");
    try {
      const seen = await this.#request(async (streams) => {
        const { closed } = await streams.append(stream, { events: undefined, contentType: undefined, close: true });
        const info = await streams.describe(stream);
        const page = await streams.read(stream, { offset: info.nextOffset, eventsMax: 10, bytesMax: 1_000 });
        return closed && info.closed && page.upToDate && page.closed && page.events.length === 0;
      });
      if (!seen && !this.#excused(stream)) ledger.violate(1, "not closed any more", nameOf(stream));
    } catch (error) {
      const forgot = hasCode(error, "STREAM_UNKNOWN") && this.#at.writer() !== "core";
      if (forgot && !this.#excused(stream)) ledger.violate(1, "forgot a stream", nameOf(stream));
    }
  }

  async #mustFail(stream: StreamShape, how: { streamSeq?: string }, kind: string): Promise<void> {
    const { submissions, pack } = this.#compose(stream, true);
    this.#world.ledger.sent(submissions);
    try {
      await this.#append(stream, { events: pack, contentType: undefined, ...how }, submissions);
      if (!this.#excused(stream)) this.#world.ledger.violate(1, kind, `${nameOf(stream)} at ${this.#at.writer()}`);
    } catch (error) {
      const nothingDone = error instanceof TributaryError && (!error.sideEffects || error.code === "SERVER_UNREACHABLE");
      if (nothingDone || !this.#excused(stream)) for (const submission of submissions) submission.refused = true;
    }
  }

  #compose(stream: StreamShape, withEvents: boolean) {
    if (!withEvents) return { submissions: [], pack: undefined };
    return compose(this.#world, this.#client.name, { ...this.#at, streams: [stream] }, "exactly-once", 4);
  }

  #append(stream: StreamShape, request: AppendRequest, submissions: readonly Submission[]): Promise<AppendResult> {
    return this.#request(async (streams) => {
      const answer = await streams.append(stream, request);
      this.#world.ledger.acknowledge(submissions, this.#at.lastSeq());
      return answer;
    });
  }

  /** True if there was none. */
  async #create(stream: StreamShape): Promise<boolean> {
    try {
      return (await this.#request((streams) => streams.create(stream, optionsOf(stream)))).created;
    } catch {
      await pause(this.#world, this.#client, 1_000);
      return false;
    }
  }

  #request<T>(work: (streams: StreamService) => Promise<T>): Promise<T> {
    return this.#world.request(this.#client, this.#service, TIMEOUT_MS, work);
  }

  /** The server's memory was set back, or the stream is another one now. */
  #excused(stream: StreamShape): boolean {
    return this.#world.hadLoss(this.#at.writer()) || this.#world.fates.wasAsked(this.#at.writer(), nameOf(stream));
  }
}

/** Sorts as the numbers do. */
function seqText(seq: number): string {
  return String(seq).padStart(6, "0");
}
