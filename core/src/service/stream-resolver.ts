import { canonicalContentType, sameContentType } from "@tributary/common/content-type";
import type { ResolveAnswer, ResolveRequest } from "@tributary/common/uplink-protocol";
import type { CoreStreamService } from "./core-stream-service.ts";
import type { StreamDirectory, StreamEntry } from "./stream-directory.ts";

type Wish = ResolveRequest["streams"][number];
type Row = ResolveAnswer["streams"][number];

const AT_ONCE_MAX = 16;

/**
 * Maps a gateway's streams to those of the core (rule W8). A stream that is created takes over the gateway's id, and every
 * later request with that id finds it: asking again after a lost answer gives the same answer, also once the stream is deleted.
 * @throws TOO_MANY_STREAMS, INVALID_REQUEST
 */
export async function resolveStreams(
  service: CoreStreamService,
  directory: StreamDirectory,
  wishes: readonly Wish[],
): Promise<ResolveAnswer> {
  // All or none: a request that is malformed anywhere creates nothing.
  wishes = wishes.map((wish) => ({ ...wish, contentType: canonicalContentType(wish.contentType) }));
  const streams: Row[] = [];
  for (let at = 0; at < wishes.length; at += AT_ONCE_MAX) {
    streams.push(...(await Promise.all(wishes.slice(at, at + AT_ONCE_MAX).map((wish) => resolveOne(service, directory, wish)))));
  }
  return { streams };
}

async function resolveOne(service: CoreStreamService, directory: StreamDirectory, wish: Wish): Promise<Row> {
  if (!wish.create) {
    const entry = await directory.find(wish.name);
    if (!entry) return refusal(wish, "unknown");
    return entry.record.state === "open" ? row(entry, wish) : refusal(wish, "deleted");
  }
  const { contentType, segments } = wish;
  const outcome = await service.createWithId(wish.name, wish.provisionalId, { contentType, segments, closed: false }, wish.createdAtMs);
  switch (outcome.type) {
    case "created":
    case "exists":
      return row(outcome.entry, wish);
    case "retired":
      return refusal(wish, "deleted");
    case "id-taken":
      return refusal(wish, "conflict");
  }
}

function row(entry: StreamEntry, wish: Wish): Row {
  const { id, contentType, segments, containers } = entry.record;
  const fits = sameContentType(contentType, wish.contentType);
  return { id: fits ? id : undefined, contentType, segments, containers, problem: fits ? "" : "conflict" };
}

function refusal(wish: Wish, problem: Row["problem"]): Row {
  return { id: undefined, contentType: wish.contentType, segments: 0, containers: [], problem };
}
