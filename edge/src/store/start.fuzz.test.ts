import { readFileSync } from "node:fs";
import { crc32c } from "@tributary/common/checksum";
import { hasCode } from "@tributary/common/errors";
import { fuzzValues } from "@tributary/common/testing/fuzz";
import { expect, it } from "vitest";
import { decodeRecord, encodeRecord, type RawRecord } from "./record.ts";
import { createStream, GatewayModel } from "./testing/gateway-model.ts";
import { MemoryDisk } from "./testing/memory-log.ts";
import { storeOver } from "./testing/site.ts";

const beside = import.meta.url;
const PREFIX_BYTES = 32;
const NEW_STREAM = "99".repeat(16);

const golden = (name: string, seq: number) => {
  const bytes = new Uint8Array(readFileSync(new URL(`golden/${name}.bin`, beside)));
  return { name, seq, bytes, raw: decodeRecord(bytes, seq) };
};
const RECORDS = [golden("commit-1", 2 ** 40), golden("incarnation-1", 5), golden("checkpoint-1", 6)];

/** Every record at the place `seq`, with magic numbers and checksum put right. */
function mendAt(bytes: Uint8Array, seq: number): Uint8Array {
  if (bytes.length < PREFIX_BYTES + 4) return bytes;
  bytes.set([0x54, 0x52, 0x45, 0x4c, 1]);
  const view = new DataView(bytes.buffer);
  view.setUint32(8, seq % 2 ** 32, true);
  view.setUint32(12, Math.floor(seq / 2 ** 32), true);
  view.setUint32(16, Math.min(view.getUint32(16, true), seq - 1), true);
  view.setUint32(bytes.length - 4, crc32c(bytes.subarray(0, -4)), true);
  return bytes;
}

/** A gateway opens over a log of which this is the last record: whatever is in it, it starts, serves, commits and starts again. */
async function expectStarts(record: Uint8Array): Promise<void> {
  const disk = new MemoryDisk();
  disk.first = 6;
  disk.last = 6;
  disk.records.set(6, mendAt(Uint8Array.from(record), 6));
  try {
    for (let start = 1; start <= 2; start++) {
      const store = storeOver(disk, start);
      const opened = await store.open();
      const gateway = new GatewayModel();
      gateway.began(opened);
      if (!opened.state.streams.some(({ id }) => id === NEW_STREAM)) await gateway.commit(store, [], [createStream(NEW_STREAM)]);
      await gateway.commit(store, [{ stream: NEW_STREAM, key: "k", text: "event" }], []);
      await store.uplinkNext(1_000_000);
      for (const { id, nextOrdinal } of opened.state.streams) {
        await store.readLocal(id, 0, { eventsMax: 10, bytesMax: 1_000 });
        await store.readLocal(id, Math.max(0, nextOrdinal - 1), { eventsMax: 10, bytesMax: 1_000 });
      }
      const page = await store.readLocal(NEW_STREAM, 0, { eventsMax: 10, bytesMax: 1_000 });
      expect(page.events.at(-1)?.key).toBe("k");
      await store.usage();
      await store.close();
    }
  } catch (error) {
    if (!hasCode(error, "FORMAT_UNSUPPORTED")) throw error;
  }
}

function withMeta(raw: RawRecord, meta: unknown): Uint8Array {
  return encodeRecord(raw.kind, raw.seq, raw.checkpoint, meta, [raw.body]).bytes;
}

it.each(RECORDS)("a gateway starts whatever a $name record says", async ({ name, raw }) => {
  await fuzzValues({ name: `${name}-start`, beside, cost: 4, seeds: [raw.meta()], run: (meta) => expectStarts(withMeta(raw, meta)) });
});
