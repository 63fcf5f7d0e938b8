import { parseStreamName } from "@tributary/common/names";
import { TributaryClient } from "@tributary/common/sdk/client";
import type { ClientReport } from "../check/client-histories.ts";
import { isClean, StreamVerifier, type VerifyReport } from "../check/stream-verifier.ts";
import { type Ledger, plainOf } from "./ledger.ts";
import { type ScenarioResult, until } from "./scenario.ts";
import { CORE_TOKEN } from "./servers.ts";
import type { TailReader } from "./tail-reader.ts";

export interface FinalRead {
  readonly ledger: ClientReport;
  readonly checks: ScenarioResult["checks"];
}

/** Waits until the core has at least as many events as were acknowledged, and no more come; then reads everything and judges it. */
export async function readAll(
  server: string,
  streams: readonly string[],
  ledger: Ledger,
  tails: readonly TailReader[],
): Promise<FinalRead> {
  const client = new TributaryClient({ server, token: CORE_TOKEN });
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
    const tail = tails.find((reader) => reader.stream === stream);
    const verifier = new StreamVerifier(tail ? { places: tail.places, wentBack: tail.wentBack } : {});
    for await (const page of client.readPages(parseStreamName(stream), { offset: "-1" })) {
      for (const record of page.records) {
        const plain = plainOf(record);
        verifier.add(plain);
        checker.add(stream, plain, record.data);
      }
    }
    verify.push({ ...verifier.finish(), stream });
  }
  const broken = verify.filter((report) => !isClean(report));
  const report = checker.finish();
  return {
    ledger: report,
    checks: [
      {
        name: "verify agrees",
        ok: broken.length === 0,
        detail: broken.map((r) => `${r.stream}: ${JSON.stringify(r.violations.slice(0, 3))}`).join("; ") || "yes",
      },
      {
        name: "every event is where, under which key and with which bytes its client sent it",
        ok: report.foreign === 0,
        detail: `${report.foreign} of ${report.read} are not`,
      },
    ],
  };
}

const SETTLE_MS_MAX = 600_000;
const STABLE_READS_MAX = 200;
