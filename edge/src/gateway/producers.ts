import { type ErrorDetails, TributaryError } from "@tributary/common/errors";
import type { ProducerToken } from "@tributary/common/stream-service";
import type { ProducerState } from "../store/edge-state.ts";

/**
 * The rules of idempotent producers of the Durable Streams protocol, as a function of what is known of the producer:
 * the next sequence number is new, one that was taken is a duplicate, a hole is refused, a higher epoch fences lower ones and starts
 * at 0 again.
 */
export type ProducerDecision =
  | { readonly kind: "new" }
  | { readonly kind: "duplicate"; readonly seq: number }
  | { readonly kind: "refused"; readonly error: TributaryError };

export function decideProducer(known: ProducerState | undefined, token: ProducerToken): ProducerDecision {
  if (known !== undefined && token.epoch < known.epoch) {
    return refused("PRODUCER_EPOCH_STALE", "a higher epoch of this producer is known", {
      producerEpoch: known.epoch,
    });
  }
  if (known === undefined || token.epoch > known.epoch) {
    if (token.seq === 0) return { kind: "new" };
    if (known === undefined) return gap(0, token.seq);
    return refused("PRODUCER_HEADERS_INVALID", "a new epoch starts with sequence 0", {
      expectedSeq: 0,
      receivedSeq: token.seq,
    });
  }
  if (token.seq <= known.seq) return { kind: "duplicate", seq: known.seq };
  return token.seq === known.seq + 1 ? { kind: "new" } : gap(known.seq + 1, token.seq);
}

function gap(expected: number, received: number): ProducerDecision {
  return refused("PRODUCER_SEQUENCE_GAP", `sequence ${expected} was expected, not ${received}`, {
    expectedSeq: expected,
    receivedSeq: received,
  });
}

function refused(
  code: "PRODUCER_EPOCH_STALE" | "PRODUCER_HEADERS_INVALID" | "PRODUCER_SEQUENCE_GAP",
  message: string,
  details: ErrorDetails,
): ProducerDecision {
  return { kind: "refused", error: new TributaryError(code, message, details) };
}
