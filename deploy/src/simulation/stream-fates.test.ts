import { describe, expect, test } from "vitest";
import { Ledger } from "./ledger.ts";
import { StreamFates } from "./stream-fates.ts";

describe("what deletions allow for", () => {
  test("a log gives up what was deleted where its copy is held, and nothing else (seed 166)", () => {
    let nowMs = 0;
    const fates = new StreamFates(new Ledger(() => nowMs), () => nowMs);
    const ledger = new Ledger(() => nowMs);
    const submit = (stream: string) => {
      const event = ledger.submit({ client: "c", writer: "disk", stream, key: "k", promise: "exactly-once", fromSeq: 1 });
      ledger.sent([event]);
      return event;
    };
    const [event, elsewhere] = [submit("plant/a"), submit("plant/b")];
    nowMs = 10;
    fates.done(fates.ask("disk of the clone", "plant/a"));
    nowMs = 20;
    const later = submit("plant/a");
    const heldBy = new Set(["disk", "disk of the clone"]);
    expect(fates.mayBeGivenUp(event, heldBy)).toBe(true);
    expect(fates.mayBeGivenUp(event, new Set(["disk", "disk of another"]))).toBe(false);
    expect(fates.mayBeGivenUp(elsewhere, heldBy)).toBe(false);
    expect(fates.mayBeGivenUp(later, heldBy)).toBe(false);
    // Whoever reads the core finds it, or a gap record: only a deletion at the gateway that took it excuses more.
    expect(fates.excuse(event).missing).toBe(false);
  });
});
