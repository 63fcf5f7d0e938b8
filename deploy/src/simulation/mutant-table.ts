/** One change of the source, made as it is loaded. `find` must be there exactly once. */
export interface Edit {
  readonly file: string;
  readonly find: string;
  readonly replace: string;
}

/** A deliberately broken variant of the program: the checker must catch it. */
export interface Mutant {
  readonly name: string;
  readonly edits: readonly Edit[];
}

const one = (name: string, file: string, find: string, replace: string): Mutant => ({ name, edits: [{ file, find, replace }] });

/**
 * What the design forbids, done. The variants exist only here, as changes of the source that a worker of the simulation loads;
 * nothing of them is in the program.
 */
export const MUTANTS: readonly Mutant[] = [
  one(
    "acknowledge before the sync (gateway)",
    "edge/src/store/edge-session.ts",
    "        await appended;\n        this.#durableEvents = events;",
    "        appended.catch(() => {});\n        this.#durableEvents = events;",
  ),
  one(
    "acknowledge before the sync (core)",
    "core/src/container/committer.ts",
    "      pipeline.send(built.kind, built.operations, answers);",
    "      pipeline.send(built.kind, built.operations, []);\n        for (const answer of answers) answer.deliver();",
  ),
  one(
    "forget writer numbers at a take-over",
    "core/src/tier/flush-object.ts",
    "  numbers.s.forEach((position, i) => {",
    "  if (Math.abs(0) === 0) numbers.s.length = 0;\n  numbers.s.forEach((position, i) => {",
  ),
  one(
    "truncate before verifying",
    "core/src/tier/verified-put.ts",
    "  for (let offset = 0; offset < length; offset += COMPARE_BYTES) {",
    "  if (length > 0) return;\n  for (let offset = 0; offset < length; offset += COMPARE_BYTES) {",
  ),
  {
    name: "skip the fence",
    edits: [
      {
        file: "core/src/container/fence.ts",
        find: "    seq = await log.append(bytes, end);",
        replace: "    seq = await log.append(bytes, (await log.state()).last);",
      },
      {
        file: "core/src/container/counting.ts",
        find: 'if (order > 0) return head.kind === FRAME_KIND.fence && head.number === 0 && chained ? "counts" : "corrupt";',
        replace: 'if (order > 0) return head.kind === FRAME_KIND.fence && head.number === 0 ? "counts" : "corrupt";',
      },
    ],
  },
  one("let a void frame count", "core/src/container/counting.ts", 'if (order < 0) return "void";', 'if (order < 0) return "counts";'),
  one(
    "free one level too early (gateway)",
    "edge/src/uplink/unit-tracker.ts",
    'if (this.#freeAt === "committed") return true;',
    'if (this.#freeAt !== "x" as string) return true;',
  ),
  one(
    "free one level too early (core)",
    "core/src/container/create-container.ts",
    "return entry ? [entry.last, entry.tiered] : [0, 0];",
    "return entry ? [entry.last, entry.last] : [0, 0];",
  ),
  one(
    "give readers at level tiered what is only committed",
    "core/src/container/durable.ts",
    'if (level === "committed") return { chain, closed };',
    'if (level !== ("x" as string)) return { chain, closed };',
  ),
  one(
    "duplicate acknowledged from memory (core)",
    "core/src/container/committer.ts",
    "if (before) before.answers.push(...answers);",
    "if (before && !before) before.answers.push(...answers);",
  ),
  one(
    "duplicate acknowledged from memory (gateway)",
    "edge/src/gateway/stream-service.ts",
    "    if (!this.#ingest.isPending(stream.changedInBatch)) return;",
    "    if (stream.durable || !this.#ingest.isPending(stream.changedInBatch)) return;",
  ),
  one(
    "reuse numbers after a torn tail",
    "edge/src/store/log-edge-store.ts",
    "const incarnation = newId(random, INCARNATION_BYTES);",
    "const incarnation = recovered.incarnation ?? newId(random, INCARNATION_BYTES);",
  ),
  one(
    "numbering that survives a clone",
    "edge/src/store/log-edge-store.ts",
    "const incarnation = newId(random, INCARNATION_BYTES);",
    'const incarnation = (recovered.log.last * 2654435761 + 4294967296).toString(16).padStart(16, "0").slice(-16);',
  ),
  one(
    "serve a read past the durable end (core)",
    "core/src/container/commit-pipeline.ts",
    "for (let frame = this.inFlight[0]; frame?.landed && !this.#ended; frame = this.inFlight[0]) {",
    "for (let frame = this.inFlight[0]; frame && !this.#ended; frame = this.inFlight[0]) {",
  ),
  one(
    "drop a gap record (gateway)",
    "edge/src/store/uplink.ts",
    "      builder.addPending(gap);",
    "      if (gap.localId === undefined) builder.addPending(gap);",
  ),
  one(
    "ignore a CRC (blocks)",
    "common/src/format/block.ts",
    '  if (view.getUint32(crcAt, true) !== crc32c(bytes.subarray(0, crcAt))) throw corrupt("checksum does not match");',
    "",
  ),
  {
    name: "ignore a CRC (edge log and its blocks)",
    edits: [
      {
        file: "edge/src/store/record.ts",
        find: 'if (view.getUint32(crcAt, true) !== crc32c(bytes.subarray(0, crcAt))) throw corrupt(expectedSeq, "checksum does not match");',
        replace: "",
      },
      {
        file: "common/src/format/block.ts",
        find: '  if (view.getUint32(crcAt, true) !== crc32c(bytes.subarray(0, crcAt))) throw corrupt("checksum does not match");',
        replace: "",
      },
    ],
  },
  one(
    "timed-out put treated as failed",
    "core/src/tier/verified-put.ts",
    'if (!hasCode(error, "OBJECT_EXISTS", "LOG_RESULT_UNKNOWN")) throw error;',
    'if (hasCode(error, "LOG_RESULT_UNKNOWN")) void objects.delete(name);\n    else if (!hasCode(error, "OBJECT_EXISTS")) throw error;',
  ),
  one(
    "timed-out append treated as failed",
    "core/src/container/committer.ts",
    "    this.#lost = new Map(inFlight.map(",
    '    for (const frame of inFlight) failAll(frame.answers, new TributaryError("OVERLOADED", "failed"));\n    this.#lost = new Map(inFlight.map(',
  ),
  {
    name: "checkpoint after truncation",
    edits: [
      {
        file: "core/src/tier/flusher.ts",
        find: '    if (!(await this.#persist("checkpoint", () => this.#host.record(checkpoint)))) return;',
        replace:
          '    await this.#host.truncateWal(checkpoint.position).catch(() => {});\n    if (!(await this.#persist("checkpoint", () => this.#host.record(checkpoint)))) return;',
      },
    ],
  },
  // Five and more of our own.
  one(
    "overlap not trimmed",
    "core/src/container/slice-decision.ts",
    "return { append: true, skip, added:",
    "skip = 0;\n  return { append: true, skip, added:",
  ),
  one(
    "duplicate appended again",
    "core/src/container/slice-decision.ts",
    "  if (entry && slice.last <= last) {",
    "  if (entry && slice.last < 0) {",
  ),
  one(
    "previous number not asked for",
    "core/src/container/slice-decision.ts",
    "  if (slice.previous > last) return refuse(SLICE_STATUS.previousNotReached, last);",
    "",
  ),
  one(
    "child taken before its parent",
    "core/src/container/slice-decision.ts",
    "    if (parentLast < slice.parent.last) return refuse(SLICE_STATUS.parentNotReached, parentLast);",
    "",
  ),
  one(
    "producers forgotten by a recovery (gateway)",
    "edge/src/store/edge-state.ts",
    "    producers.set(producerId, { epoch, seq });\n    state.producers.set(streamId, producers);",
    "    state.producers.set(streamId, producers);",
  ),
  one(
    "packet ids forgotten by a recovery",
    "edge/src/store/edge-state.ts",
    "    state.packetIds.set(clientId, new Map(packetIds.map((id, i) => [id, digests[i] ?? DIGEST_UNKNOWN])));",
    "    state.packetIds.set(clientId, new Map());",
  ),
  one(
    "producers forgotten by a flush (core)",
    "core/src/tier/flush-object.ts",
    "  for (const { stream, id: producerId, epoch, seq } of footer.producers) setProducer(state.stream(id(stream)), producerId, { epoch, seq });",
    "",
  ),
  one(
    "what failed is answered as committed",
    "edge/src/gateway/group-commit.ts",
    "    batch.answer(this.#trouble, this.#touched);",
    "    batch.answer(undefined, this.#touched);",
  ),
  one(
    "acknowledged but lost at a rewind",
    "edge/src/store/uplink.ts",
    "    this.#sent = this.freed.clone();\n    this.#cursor = this.cursorFrom(this.freed.position + 1);\n  }\n\n  /** Units from",
    "    this.#cursor = this.cursorFrom(this.#sent.position + 1);\n  }\n\n  /** Units from",
  ),
  one(
    "closing is forgotten by a flush (core)",
    "core/src/tier/flush-object.ts",
    "  for (const stream of footer.closed) state.stream(id(stream)).closed = true;",
    "",
  ),
  one(
    "a lower epoch of a producer is taken (gateway)",
    "edge/src/gateway/producers.ts",
    "  if (known !== undefined && token.epoch < known.epoch) {",
    '  if (known !== undefined && token.epoch < known.epoch) {\n    if (token.seq >= 0) return { kind: "new" };',
  ),
  one(
    "serves on when its lease has run out",
    "core/src/cluster/membership.ts",
    "    return this.#joined && this.#isWithinLease();",
    "    return this.#joined;",
  ),
  one(
    "declares dead before the lease is over",
    "core/src/cluster/cluster-node.ts",
    "const CLOCKS_DIFFER = 1.1;",
    "const CLOCKS_DIFFER = 0.4;",
  ),
  one(
    "an append that the network doubles is there twice (core)",
    "core/src/routing/node-endpoint.ts",
    "    const before = id === undefined ? undefined : this.#appends.get(id);",
    "    const before = id === undefined || id ? undefined : this.#appends.get(id);",
  ),
  one(
    "takes a container from an owner that lives",
    "core/src/service/container-host.ts",
    "          return forced || free;",
    "          return true;",
  ),
  one(
    "who waits for data is not woken (core)",
    "core/src/container/create-container.ts",
    "          this.#waiters.committed.wake(streamId, chain);\n",
    "",
  ),
  one(
    "who waits at level tiered is not woken",
    "core/src/container/create-container.ts",
    "          for (const [streamId, chain] of changed) this.#waiters.tiered.wake(streamId, chain);\n",
    "          void changed;\n",
  ),
  // Going back in time.
  one(
    "no root: the log alone decides where a generation begins",
    "core/src/container/going-back.ts",
    "      await objects.put(name, bytes);",
    "      if (bytes.length === 0) await objects.put(name, bytes);",
  ),
  one("evidence in the lake ignored", "core/src/container/going-back.ts", "  if (suspects.length > 0) {", "  if (suspects.length > 1e9) {"),
  one(
    "a nonce is used again",
    "core/src/container/create-container.ts",
    "    this.#nonce = newId(setup.random, NONCE_BYTES);",
    '    this.#nonce = newId(setup.random, NONCE_BYTES).replace(/./g, "1");',
  ),
  one(
    "successors do not inherit writer numbers",
    "core/src/container/state.ts",
    "({ id: { ...id, generation }, length: 0 }));",
    "({ id: { ...id, generation }, length: 0 })), stream.writers.clear();",
  ),
  one(
    "a generation begins from log or lake, whichever is shorter",
    "core/src/container/going-back.ts",
    "comparePositions(log.historyEnd, lake.historyEnd) >= 0",
    "comparePositions(log.historyEnd, lake.historyEnd) <= 0",
  ),
  one(
    "an epoch is not claimed",
    "core/src/tier/claim.ts",
    "  if (highest > epoch) throw used(epoch, highest);",
    "  if (highest >= epoch) return;",
  ),
  one("tombstones are forgotten", "core/src/container/state.ts", "    this.tombstones.add(id);\n", ""),
  one(
    "a position is taken whatever its nonces",
    "core/src/container/nonces.ts",
    "  if (ancestry.length === 0) return Math.min(chain, end);",
    "  if (ancestry.length >= 0) return Math.min(chain, end);",
  ),
];
