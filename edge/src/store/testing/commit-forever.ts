import { writeSync } from "node:fs";
import { createWorkerEdgeStore } from "../worker-edge-store.ts";
import { createStream, GatewayModel } from "./gateway-model.ts";

/**
 * A gateway's store under load, until it is killed: commits events `<from>`, `<from + 1>`, … and says each on a line of its own
 * once it was acknowledged. Arguments: path of the log, folder for quarantine, stream id, from.
 */
const [path, quarantineDir, stream, from] = process.argv.slice(2) as [string, string, string, string];
const store = createWorkerEdgeStore({ path, quarantineDir });
const gateway = new GatewayModel();
const opened = await store.open();
gateway.began(opened);
if (opened.state.streams.length === 0) await gateway.commit(store, [], [createStream(stream)]);

async function commitFrom(first: number): Promise<void> {
  const texts = Array.from({ length: 1 + (first % 40) }, (_, i) => String(first + i));
  await gateway.commit(
    store,
    texts.map((text) => ({ stream, key: "k", text })),
  );
  writeSync(1, `${texts.join("\n")}\n`);
}

let next = Number(from);
for (;;) {
  // Two in flight, as a gateway has them.
  const second = next + 1 + (next % 40);
  await Promise.all([commitFrom(next), commitFrom(second)]);
  next = second + 1 + (second % 40);
}
