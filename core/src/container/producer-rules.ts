import { TributaryError } from "@tributary/common/errors";
import type { ProducerToken } from "@tributary/common/stream-service";
import type { ProducerState } from "./state.ts";

export type ProducerVerdict =
  | { readonly kind: "new" }
  | { readonly kind: "duplicate" }
  | { readonly kind: "refused"; readonly error: TributaryError };

/** Idempotent producers as the Durable Streams protocol has them (rule W7): epochs fence, sequences are gapless from 0. */
export function judgeProducer(known: ProducerState | undefined, token: ProducerToken): ProducerVerdict {
  const { id, epoch, seq } = token;
  if (known && epoch < known.epoch) {
    return refused(
      new TributaryError("PRODUCER_EPOCH_STALE", `producer '${id}' is at epoch ${known.epoch}, not ${epoch}`, {
        producerEpoch: known.epoch,
      }),
    );
  }
  if (known && epoch > known.epoch && seq !== 0) {
    return refused(
      new TributaryError("PRODUCER_HEADERS_INVALID", `producer '${id}' must begin its epoch ${epoch} with sequence 0, not ${seq}`),
    );
  }
  const expected = known && epoch === known.epoch ? known.seq + 1 : 0;
  if (seq < expected) return { kind: "duplicate" };
  if (seq > expected) {
    return refused(
      new TributaryError("PRODUCER_SEQUENCE_GAP", `producer '${id}' sent sequence ${seq}, expected was ${expected}`, {
        expectedSeq: expected,
        receivedSeq: seq,
      }),
    );
  }
  return { kind: "new" };
}

function refused(error: TributaryError): ProducerVerdict {
  return { kind: "refused", error };
}
