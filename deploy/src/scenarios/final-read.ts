import { parseStreamName } from "@tributary/common/names";
import { TributaryClient } from "@tributary/common/sdk/client";
import { StreamVerifier, type VerifyReport } from "../check/stream-verifier.ts";
import type { Ledger, LedgerReport } from "./ledger.ts";
import { until } from "./scenario.ts";
import type { TailReader } from "./tail-reader.ts";

export interface FinalRead {
  readonly ledger: LedgerReport;
  readonly verify: readonly (VerifyReport & { readonly stream: string })[];
}

/** Waits until the core has at least as many events as were acknowledged, and no more come; then reads everything and judges it. */
export async function readAll(
  server: string,
  streams: readonly string[],
  ledger: Ledger,
  tails: readonly TailReader[],
): Promise<FinalRead> {
  const client = new TributaryClient({ server });
  const total = async () => {
    let events = 0;
    for (const stream of streams) events += (await client.describeStream(parseStreamName(stream))).events;
    return events;
  };
  let last = -1;
  let stableReads = 0;
  await until("the core to have everything", SETTLE_MS_MAX, async () => {
    const events = await total().catch(() => -1);
    stableReads = events === last ? stableReads + 1 : 0;
    last = events;
    // Where events are missing for good, the judgement below says so: waiting longer would not.
    return (events >= ledger.acked && stableReads >= 3) || stableReads >= STABLE_READS_MAX;
  });
  const checker = ledger.checker();
  const verify: (VerifyReport & { stream: string })[] = [];
  for (const stream of streams) {
    const verifier = new StreamVerifier();
    const tail = tails.find((reader) => reader.stream === stream);
    for await (const page of client.readPages(parseStreamName(stream), { offset: "-1" })) {
      for (const record of page.records) {
        verifier.add(record);
        tail?.check(record);
        if (record.kind === "event") checker.add(record.data);
      }
    }
    verify.push({ ...verifier.finish(), stream });
  }
  return { ledger: checker.finish(), verify };
}

const SETTLE_MS_MAX = 600_000;
const STABLE_READS_MAX = 200;
