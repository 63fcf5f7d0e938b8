import { assert } from "./assert.ts";

/**
 * Every limit in one place, units last. A change here can change formats and promises: read the relations below.
 */
export const LIMITS = {
  /** Payload of one event. */
  eventBytesMax: 1_048_576,
  /** Body of one append request. */
  requestBytesMax: 8_388_608,
  /** Bodies of all append requests that are being taken in, together. */
  requestBytesInFlightMax: 67_108_864,
  /** Events in one append request. */
  requestEventsMax: 50_000,
  routingKeyBytesMax: 256,
  nameCharsMax: 128,
  contentTypeCharsMax: 255,
  producerIdCharsMax: 128,
  segmentsPerStreamMax: 1024,
  /** Containers of one cluster. */
  containersMax: 1_024,
  /** Raw bytes at which the gateway closes the open batch and commits it. */
  batchRawBytesTarget: 1_048_576,
  batchEventsMax: 16_384,
  /** Raw bytes of events of many slices that share one compressed chunk. */
  chunkRawBytesTarget: 131_072,
  /** Encoded block, checksums included. One oversized event and its envelope fits. */
  blockBytesMax: 4_194_304,
  /** Slices in one block. */
  blockSlicesMax: 16_384,
  /** WAL frame in the embedded engine; in JetStream the server's max_payload may lower it. */
  frameBytesMax: 8_388_608,
  /** Commits handed to the log worker and not yet durable. */
  commitsInFlightMax: 2,
  /** Uplink blocks sent and not yet answered, for each container. */
  uplinkBlocksInFlightMax: 8,
  /** Bytes of one page of a read. */
  readPageBytesMax: 4_194_304,
  readPageEventsMax: 10_000,
  longPollMsMax: 20_000,
  /** How long a core node works for one HTTP request, without the time in which its body arrives or it waits at a stream's end. */
  httpRequestMsMax: 15_000,
  mqttPacketBytesMax: 1_114_112,
  mqttConnectionsMax: 20_000,
  /** Publishes of one MQTT connection taken and not yet answered; more are left in its socket. */
  mqttUnansweredMax: 2_048,
  /** From an MQTT connection's begin to its CONNECT. */
  mqttConnectMsMax: 10_000,
  /** Idempotent producers kept for each stream; the least recently used one is forgotten first. */
  producersPerStreamMax: 10_000,
  /** MQTT packet ids of QoS 2 publishes kept by one gateway; those of the client that took one longest ago are forgotten first. */
  packetIdsMax: 262_144,
  /** Runs of events (one an incarnation) that a gateway remembers of a stream, and of all streams together. */
  localErasPerStreamMax: 1_024,
  localErasMax: 262_144,
  /** Streams that one gateway keeps. */
  gatewayStreamsMax: 100_000,
  /** Streams that one cluster keeps. */
  streamsMax: 1_000_000,
  /** Streams whose records a core node keeps in memory. */
  directoryCacheEntriesMax: 65_536,
  /** Deleted names that are remembered, so that a late retry of their creation is told apart from a new one. */
  deletedStreamsMax: 10_000,
  /** Ids of deleted streams that a container remembers, so that a registration that comes late brings none of them back. */
  tombstonesPerContainerMax: 10_000,
  /** Take-overs that a stream remembers, to tell positions on lost histories from its own. */
  nonceRangesPerStreamMax: 256,
  /** Earlier ids remembered for each name. */
  pastIdsPerNameMax: 64,
  /** Incarnations remembered for each writer, and writers that a core node counts. */
  incarnationsPerWriterMax: 64,
  writersCountedMax: 100_000,
  /** Requests of gateways that a core node works on at once; those above get OVERLOADED. */
  uplinkAppendsInFlightMax: 1_024,
  uplinkAppendBytesInFlightMax: 134_217_728,
  controlRequestsInFlightMax: 128,
  controlRequestBytesMax: 1_048_576,
  /** Streams in one resolve request. */
  resolveStreamsMax: 1_024,
  /** Pages of a stream that one fetch request may walk through. */
  fetchPagesMax: 16,
  /** How long a container lets appends wait for its lake before it refuses them: shorter than any of those who wait for it. */
  appendHoldMsMax: 2_500,
  /** How long a core node looks for the owner of a container before it gives a request up: longer than a take-over, shorter than a gateway waits. */
  rerouteMsMax: 4_000,
  /** How long one core node waits for the answer of another. */
  nodeRequestMsMax: 10_000,
  /** Requests of other core nodes that a node works on at once, and their bytes; the same bounds hold for those that it sends. */
  nodeRequestsInFlightMax: 1_024,
  nodeRequestBytesInFlightMax: 134_217_728,
  /** Ends of streams at which one core node waits at other nodes; readers of one end share it. */
  nodeWaitsMax: 2_048,
  nodeWaitMsMax: 20_000,
  /** Payload bytes of a page that travels between core nodes: with keys and numbers around them they fit in a frame. */
  nodePageBytesMax: 2_097_152,
  /** Streams in one question of a core node to another, and segments in its answer. */
  nodeDescribeStreamsMax: 1_024,
  nodeDescribeSegmentsMax: 65_536,
} as const;

assert(LIMITS.rerouteMsMax < LIMITS.httpRequestMsMax, "a take-over shows as a slow answer, not as an error");
assert(LIMITS.nodeRequestMsMax < LIMITS.httpRequestMsMax, "what another node refuses or cannot tell is heard");
assert(LIMITS.eventBytesMax < LIMITS.requestBytesMax, "an event fits in a request");
assert(LIMITS.eventBytesMax + 64 * 1024 <= LIMITS.blockBytesMax, "an event and its envelope fit in a block");
assert(LIMITS.blockBytesMax < LIMITS.frameBytesMax, "a block fits in a frame");
assert(LIMITS.appendHoldMsMax < LIMITS.rerouteMsMax, "an append that was held is answered before it is routed anew");
