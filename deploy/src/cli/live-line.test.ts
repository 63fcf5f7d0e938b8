import { afterEach, expect, it, vi } from "vitest";
import { writeLogLine } from "./live-line.ts";

const { stdout, stderr } = process;
const terminals = [stdout.isTTY, stderr.isTTY];

afterEach(() => {
  [stdout.isTTY = false, stderr.isTTY = false] = terminals;
  vi.restoreAllMocks();
});

it.for([
  { out: true, err: true, written: "\r\x1b[2Kwarn  a line\n" },
  { out: true, err: false, written: "warn  a line\n" },
  { out: false, err: true, written: "warn  a line\n" },
])("a line of the log clears the live line only where both are on a terminal: %o", ({ out, err, written }) => {
  const write = vi.spyOn(stderr, "write").mockReturnValue(true);
  stdout.isTTY = out;
  stderr.isTTY = err;
  writeLogLine("warn  a line\n");
  expect(write.mock.calls).toEqual([[written]]);
});
