import { fuzzBytes, orCode } from "@tributary/common/testing/fuzz";
import { expect, it } from "vitest";
import { formatOffset, parseOffset } from "./offsets.ts";

const STREAM = "0123456789abcdef0123456789abcdef";
const WRITER = "fedcba9876543210fedcba9876543210";

it("mutated offsets are of this stream and gateway or refused", async () => {
  await fuzzBytes({
    name: "offset",
    beside: import.meta.url,
    seeds: [formatOffset(0, STREAM, WRITER), formatOffset(2 ** 53 - 1, STREAM, WRITER), "now", "-1", "c1_0000000000000001_01234567"].map(
      (text) => new TextEncoder().encode(text),
    ),
    run: (bytes) => {
      const text = Buffer.from(bytes).toString("latin1");
      const ordinal = orCode(() => parseOffset(text, STREAM, WRITER), "OFFSET_INVALID", "OFFSET_FOREIGN");
      if (typeof ordinal === "number" && text !== "-1") expect(formatOffset(ordinal, STREAM, WRITER)).toBe(text);
    },
  });
});
