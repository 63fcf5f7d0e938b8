import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { decideProducer } from "./producers.ts";

describe("producer rules", () => {
  test.each([
    ["the first sequence of an unknown producer is 0", undefined, { epoch: 3, seq: 0 }, "new"],
    ["an unknown producer cannot begin in the middle", undefined, { epoch: 0, seq: 2 }, "PRODUCER_SEQUENCE_GAP"],
    ["the next sequence", { epoch: 1, seq: 4 }, { epoch: 1, seq: 5 }, "new"],
    ["the last one again", { epoch: 1, seq: 4 }, { epoch: 1, seq: 4 }, "duplicate"],
    ["an old one again", { epoch: 1, seq: 4 }, { epoch: 1, seq: 0 }, "duplicate"],
    ["a hole", { epoch: 1, seq: 4 }, { epoch: 1, seq: 6 }, "PRODUCER_SEQUENCE_GAP"],
    ["an old epoch", { epoch: 1, seq: 4 }, { epoch: 0, seq: 5 }, "PRODUCER_EPOCH_STALE"],
    ["a new epoch", { epoch: 1, seq: 4 }, { epoch: 2, seq: 0 }, "new"],
    ["a new epoch in the middle", { epoch: 1, seq: 4 }, { epoch: 2, seq: 5 }, "PRODUCER_HEADERS_INVALID"],
  ] as const)("%s", (_, known, token, expected) => {
    const decision = decideProducer(known, { id: "p", ...token });
    expect(decision.kind === "refused" ? decision.error.code : decision.kind).toBe(expected);
  });

  test("refusals carry what the protocol returns as headers", () => {
    const details = (known: { epoch: number; seq: number }, token: { epoch: number; seq: number }) => {
      const decision = decideProducer(known, { id: "p", ...token });
      return decision.kind === "refused" ? decision.error.details : undefined;
    };
    expect(details({ epoch: 5, seq: 1 }, { epoch: 4, seq: 2 })).toEqual({ producerEpoch: 5 });
    expect(details({ epoch: 5, seq: 1 }, { epoch: 5, seq: 7 })).toEqual({ expectedSeq: 2, receivedSeq: 7 });
  });

  // A producer that sends 0, 1, 2, … with any repetitions, under rising epochs: each (epoch, seq) is taken once, in order.
  test("every sequence number is taken exactly once, in order", () => {
    const tokens = fc.array(fc.record({ id: fc.constant("p"), epoch: fc.nat(2), seq: fc.nat(4) }), { maxLength: 80 });
    fc.assert(
      fc.property(tokens, (sent) => {
        let known: { epoch: number; seq: number } | undefined;
        const taken: { epoch: number; seq: number }[] = [];
        for (const { id, epoch, seq } of sent) {
          const { kind } = decideProducer(known, { id, epoch, seq });
          const was = taken.some((token) => token.epoch === epoch && token.seq === seq);
          if (kind === "new") {
            expect(was).toBe(false);
            known = { epoch, seq };
            taken.push(known);
          } else if (kind === "duplicate") expect(was).toBe(true);
        }
        for (const [i, token] of taken.entries()) {
          const before = taken[i - 1];
          const follows = before && token.epoch === before.epoch ? token.seq === before.seq + 1 : token.seq === 0;
          expect(follows && token.epoch >= (before?.epoch ?? 0)).toBe(true);
        }
      }),
    );
  });
});
