import { sleep } from "@tributary/common/clock";
import type { CreateOptions, EventPack, StreamService } from "@tributary/common/stream-service";
import type { Submission } from "../ledger.ts";
import type { SimProcess } from "../process.ts";
import type { StreamShape } from "../shape.ts";
import type { SimWorld, Target } from "../sim-world.ts";

export interface Workplace {
  /** Names the log whose level the acknowledgements have: a gateway's disk, or "core". */
  readonly writer: () => string;
  /** Sequence of the last record of that log. */
  readonly lastSeq: () => number;
  readonly streams: readonly StreamShape[];
}

export type Service = () => Target<StreamService>;

/** What a client does until the world stops working. It ends only when everything that it promised itself is done. */
export function startClient(world: SimWorld, name: string, act: (client: SimProcess) => Promise<void>): void {
  if (!world.allows(name)) return;
  const client = world.spawn(name);
  world.clientsBusy.add(name);
  act(client).then(
    () => void world.clientsBusy.delete(name),
    (error: unknown) => {
      world.clientsBusy.delete(name);
      world.defect(name, error);
    },
  );
}

/** Waits for the time between two operations. False once nothing new is to be begun. */
export async function nextOperation(world: SimWorld, client: SimProcess): Promise<boolean> {
  await sleep(client.clock, world.dice.between(`pause of ${client.name}`, 0, 2 * world.shape.opIntervalMs));
  return world.working;
}

export function pause(world: SimWorld, client: SimProcess, longestMs: number): Promise<void> {
  return sleep(client.clock, world.dice.between(`backoff of ${client.name}`, longestMs / 4, longestMs));
}

/** Events of one operation: for one stream, with a few keys of the client's own and one that everybody at its gateway uses. */
export function compose(
  world: SimWorld,
  client: string,
  at: Workplace,
  promise: Submission["promise"],
  countMax: number,
): { stream: StreamShape; submissions: Submission[]; pack: EventPack } {
  const { dice, ledger, shape } = world;
  const stream = dice.pick(`stream of ${client}`, at.streams);
  const count = dice.integer(`count of ${client}`, 1, countMax);
  const fromSeq = at.lastSeq();
  const submissions = Array.from({ length: count }, () => {
    const key = dice.pick(`key of ${client}`, [`${client}-a`, `${client}-b`, `${client}-c`, "common"]);
    return ledger.submit({ client, writer: at.writer(), stream: nameOf(stream), key, promise, fromSeq });
  });
  const payloads = submissions.map(({ id }) => ledger.payload(id, dice.integer(`size of ${client}`, 0, shape.eventBytesMax)));
  return { stream, submissions, pack: packOf(submissions, payloads) };
}

export function packOf(submissions: readonly Submission[], payloads: readonly Uint8Array[]): EventPack {
  let end = 0;
  const ends = payloads.map((payload) => (end += payload.length));
  const payload = new Uint8Array(end);
  payloads.forEach((bytes, i) => {
    payload.set(bytes, i === 0 ? 0 : ends[i - 1]);
  });
  return { count: payloads.length, payload, ends, keys: submissions.map(({ key }) => key), timesMs: undefined };
}

/** What a stream is to be created with. */
export function optionsOf({ segments, contentType }: StreamShape): CreateOptions {
  return contentType === undefined ? { segments } : { segments, contentType };
}

export function nameOf(stream: Pick<StreamShape, "scope" | "stream">): string {
  return `${stream.scope}/${stream.stream}`;
}
