import { hasCode, TributaryError } from "@tributary/common/errors";
import type { SimWorld } from "../sim-world.ts";
import { compose, nameOf, nextOperation, optionsOf, pause, type Service, startClient, type Workplace } from "./client.ts";

const TIMEOUT_MS = 3_000;
const FORGOTTEN = ["PRODUCER_SEQUENCE_GAP", "PRODUCER_EPOCH_STALE", "PRODUCER_HEADERS_INVALID"] as const;

/** A client with Producer-Id, epoch and sequence: sends again until it is answered, and expects each event once (rule W7). */
export function startHttpProducer(world: SimWorld, name: string, service: Service, at: Workplace): void {
  startClient(world, name, async (client) => {
    let epoch = 0;
    let seq = 0;
    const started = new Map<string, boolean>();
    /** Sequences count for each stream. */
    const seqs = new Map<string, number>();
    while (await nextOperation(world, client)) {
      const { stream, submissions, pack } = compose(world, name, at, "exactly-once", world.shape.eventsPerOp);
      seq = seqs.get(stream.stream) ?? 0;
      const givesUpAfter = world.dice.float(`patience of ${name}`) < 0.02 ? 1 : Number.POSITIVE_INFINITY;
      for (let attempt = 1; ; attempt++) {
        world.ledger.sent(submissions);
        const request = { events: pack, contentType: undefined, producer: { id: name, epoch, seq } };
        try {
          if (!started.get(stream.stream)) {
            await world.request(client, service, TIMEOUT_MS, (streams) => streams.create(stream, optionsOf(stream)));
            started.set(stream.stream, true);
          }
          const result = await world.request(client, service, TIMEOUT_MS, async (streams) => {
            const answer = await streams.append(stream, request);
            world.ledger.acknowledge(submissions, at.lastSeq());
            return answer;
          });
          // The core itself asks again where the result of an append is unknown, and then finds what it had appended.
          if (result.duplicate && attempt === 1 && at.writer() !== "core" && !world.hadLoss(at.writer())) {
            world.ledger.violate(1, "called a duplicate", `${name} sent ${seq} of epoch ${epoch} for the first time`);
          }
          seqs.set(stream.stream, seq + 1);
          break;
        } catch (error) {
          if (hasCode(error, "STREAM_EXISTS")) started.set(stream.stream, true);
          else if (hasCode(error, "STREAM_UNKNOWN")) started.delete(stream.stream);
          else if (hasCode(error, ...FORGOTTEN)) {
            if (!world.hadLoss(at.writer()) && !world.fates.wasAsked(at.writer(), nameOf(stream))) {
              world.ledger.violate(
                1,
                "forgot a producer",
                `${name}, sequence ${seq} of epoch ${epoch} in ${stream.stream}: ${error.message}`,
              );
            }
            epoch++;
            seqs.clear();
            seq = 0;
          } else if (hasCode(error, "STREAM_CLOSED") && world.fates.mayBeClosed(at.writer(), nameOf(stream))) {
            break;
          } else if (!(error instanceof TributaryError) || !error.retryable) {
            world.ledger.violate(0, "unexpected answer", `${name}: ${error}`);
            break;
          }
          if (attempt >= givesUpAfter || world.hopeless) {
            // It starts anew and does not know what became of them.
            epoch++;
            seqs.clear();
            break;
          }
          await pause(world, client, Math.min(2_000, 100 * 2 ** attempt));
        }
      }
    }
  });
}

/** A client that sends once and lives with the answer. */
export function startPlainCaller(world: SimWorld, name: string, service: Service, at: Workplace): void {
  startClient(world, name, async (client) => {
    while (await nextOperation(world, client)) {
      const { stream, submissions, pack } = compose(world, name, at, "exactly-once", 4);
      world.ledger.sent(submissions);
      try {
        await world.request(client, service, TIMEOUT_MS, async (streams) => {
          await streams.append(stream, { events: pack, contentType: undefined });
          world.ledger.acknowledge(submissions, at.lastSeq());
        });
      } catch (error) {
        const nothingDone = error instanceof TributaryError && (!error.sideEffects || error.code === "SERVER_UNREACHABLE");
        if (nothingDone) for (const submission of submissions) submission.refused = true;
        if (hasCode(error, "STREAM_UNKNOWN")) {
          await world.request(client, service, TIMEOUT_MS, (streams) => streams.create(stream, optionsOf(stream))).catch(() => {});
        }
      }
    }
  });
}
