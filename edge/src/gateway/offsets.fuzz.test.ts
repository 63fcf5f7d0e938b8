import { fuzzBytes, orCode } from "@tributary/common/testing/fuzz";
import { expect, it } from "vitest";
import { formatOffset, parseOffset } from "./offsets.ts";

const STREAM = "0123456789abcdef0123456789abcdef";
const WRITER = "fedcba9876543210fedcba9876543210";

it("mutated offsets are of this stream and gateway or refused", async () => {
  await fuzzBytes({
    name: "offset",
    beside: import.meta.url,
    seeds: [
      formatOffset({ ordinal: 0, branch: "00000000" }, STREAM, WRITER),
      formatOffset({ ordinal: 2 ** 53 - 1, branch: "89abcdef" }, STREAM, WRITER),
      "now",
      "-1",
      "c1_0000000000000001_01234567",
    ].map((text) => new TextEncoder().encode(text)),
    run: (bytes) => {
      const text = Buffer.from(bytes).toString("latin1");
      const offset = orCode(() => parseOffset(text, STREAM, WRITER), "OFFSET_INVALID", "OFFSET_FOREIGN");
      if (typeof offset === "object" && text !== "-1") expect(formatOffset(offset, STREAM, WRITER)).toBe(text);
    },
  });
});
