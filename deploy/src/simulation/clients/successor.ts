import { hasCode, TributaryError } from "@tributary/common/errors";
import type { ProducerToken } from "@tributary/common/stream-service";
import type { StreamShape } from "../shape.ts";
import type { SimWorld } from "../sim-world.ts";
import { compose, nameOf, nextOperation, optionsOf, pause, type Service, startClient, type Workplace } from "./client.ts";

const TIMEOUT_MS = 3_000;

/**
 * Runs of one producer that follow each other: each begins with a higher epoch, while one before it has something under way and goes
 * on to send. Once the first append of an epoch is answered, nothing of a lower one may be taken.
 */
export function startSuccessor(world: SimWorld, name: string, service: Service, at: Workplace): void {
  const { dice, ledger } = world;
  startClient(world, name, async (client) => {
    const epochs = new Map<string, number>();
    while (await nextOperation(world, client)) {
      const stream = dice.pick(`stream of ${name}`, at.streams);
      const epoch = (epochs.get(nameOf(stream)) ?? -1) + 1;
      epochs.set(nameOf(stream), epoch);
      let next = 0;
      const count = dice.integer(`appends of ${name}`, 1, 4);
      for (; next < count; next++) if (!(await append(stream, { id: name, epoch, seq: next }))) break;
      // The successor does not wait for it.
      const underWay = append(stream, { id: name, epoch, seq: next }, 1);
      epochs.set(nameOf(stream), epoch + 1);
      const began = await append(stream, { id: name, epoch: epoch + 1, seq: 0 });
      await underWay;
      if (began) await mustFail(stream, { id: name, epoch, seq: dice.integer(`zombie of ${name}`, 0, next + 1) });
    }

    /** True once it is there. */
    async function append(stream: StreamShape, producer: ProducerToken, triesMax = Number.POSITIVE_INFINITY): Promise<boolean> {
      const { submissions, pack } = compose(world, name, { ...at, streams: [stream] }, "exactly-once", 4);
      for (let tries = 1; tries <= triesMax && !world.hopeless; tries++) {
        ledger.sent(submissions);
        try {
          await world.request(client, service, TIMEOUT_MS, async (streams) => {
            await streams.append(stream, { events: pack, contentType: undefined, producer });
            ledger.acknowledge(submissions, at.lastSeq());
          });
          return true;
        } catch (error) {
          if (hasCode(error, "STREAM_UNKNOWN")) {
            await create(stream);
          } else if (!(error instanceof TributaryError) || !error.retryable) {
            if (triesMax > 1 && !excused(stream)) {
              ledger.violate(1, "forgot a producer", `${name}, ${producer.seq} of epoch ${producer.epoch} in ${nameOf(stream)}: ${error}`);
            }
            return false;
          }
          if (tries < triesMax) await pause(world, client, Math.min(2_000, 100 * 2 ** tries));
        }
      }
      return false;
    }

    async function mustFail(stream: StreamShape, producer: ProducerToken): Promise<void> {
      const { submissions, pack } = compose(world, name, { ...at, streams: [stream] }, "exactly-once", 2);
      if (!excused(stream)) for (const submission of submissions) submission.forbidden = true;
      for (let tries = 1; !world.hopeless; tries++) {
        ledger.sent(submissions);
        try {
          await world.request(client, service, TIMEOUT_MS, async (streams) => {
            await streams.append(stream, { events: pack, contentType: undefined, producer });
            if (!excused(stream)) ledger.violate(1, "zombie was taken", `${name}, ${producer.seq} of epoch ${producer.epoch}`);
          });
          return;
        } catch (error) {
          if (excused(stream) || (error instanceof TributaryError && (error.retryable || hasCode(error, "PRODUCER_EPOCH_STALE")))) return;
          if (!hasCode(error, "STREAM_UNKNOWN")) {
            ledger.violate(1, "zombie was not refused", `${name}, ${producer.seq} of epoch ${producer.epoch}: ${error}`);
            return;
          }
        }
        // An old read of the MetaStore may not show it; then it is found again.
        if ((await create(stream)) && !excused(stream)) ledger.violate(1, "forgot a stream", nameOf(stream));
        await pause(world, client, Math.min(2_000, 100 * 2 ** tries));
      }
    }

    /** True if it was not there. */
    async function create(stream: StreamShape): Promise<boolean> {
      const creation = world.request(client, service, TIMEOUT_MS, (streams) => streams.create(stream, optionsOf(stream)));
      return (await creation.catch(() => undefined))?.created ?? false;
    }

    function excused(stream: StreamShape): boolean {
      const { fates } = world;
      const [writer, who] = [at.writer(), nameOf(stream)];
      return world.hadLoss(writer) || fates.wasAsked(writer, who) || fates.mayBeClosed(writer, who);
    }
  });
}
