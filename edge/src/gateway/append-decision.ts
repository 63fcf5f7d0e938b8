import { sameContentType } from "@tributary/common/content-type";
import { TributaryError } from "@tributary/common/errors";
import type { Id } from "@tributary/common/names";
import type { AppendRequest } from "@tributary/common/stream-service";
import type { ProducerState } from "../store/edge-state.ts";
import type { StateChange } from "../store/edge-store.ts";
import { decideProducer } from "./producers.ts";

/** What an append is judged by: the stream after everything accepted before it, durable or not. */
export interface AppendSubject {
  readonly id: Id;
  readonly contentType: string;
  readonly closed: boolean;
  readonly streamSeq: string;
}

export type AppendDecision =
  /** Append the events together with the changes. */
  | { readonly kind: "append"; readonly changes: readonly StateChange[] }
  | { readonly kind: "duplicate"; readonly producerSeq: number }
  /** Closing what is closed. */
  | { readonly kind: "closed-before" }
  | { readonly kind: "closed" }
  | { readonly kind: "refused"; readonly error: TributaryError };

const refused = (error: TributaryError): AppendDecision => ({ kind: "refused", error });

/** The rules of POST of the Durable Streams protocol, in its order: closed, content type, producer, Stream-Seq. */
export function decideAppend(
  stream: AppendSubject,
  producers: ReadonlyMap<string, ProducerState> | undefined,
  request: AppendRequest,
): AppendDecision {
  const { producer, streamSeq } = request;
  const byProducer = producer && decideProducer(producers?.get(producer.id), producer);
  if (stream.closed) {
    if (byProducer?.kind === "duplicate") return { kind: "duplicate", producerSeq: byProducer.seq };
    return request.events === undefined && request.close ? { kind: "closed-before" } : { kind: "closed" };
  }
  if (request.contentType !== undefined && !sameContentType(request.contentType, stream.contentType)) {
    return refused(
      new TributaryError("CONTENT_TYPE_MISMATCH", `the stream holds ${stream.contentType}`, { contentType: stream.contentType }),
    );
  }
  if (byProducer?.kind === "duplicate") return { kind: "duplicate", producerSeq: byProducer.seq };
  if (byProducer?.kind === "refused") return byProducer;
  if (streamSeq !== undefined && streamSeq <= stream.streamSeq) {
    return refused(new TributaryError("SEQUENCE_CONFLICT", `Stream-Seq '${streamSeq}' does not follow '${stream.streamSeq}'`));
  }
  const { id } = stream;
  const changes: StateChange[] = [];
  if (producer) changes.push({ type: "producer", id, producerId: producer.id, epoch: producer.epoch, seq: producer.seq });
  if (streamSeq !== undefined) changes.push({ type: "stream-seq", id, streamSeq });
  if (request.close) changes.push({ type: "close-stream", id });
  return { kind: "append", changes };
}
