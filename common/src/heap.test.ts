import { execFileSync } from "node:child_process";
import { expect, it } from "vitest";
import { ARRAYS_FLAG } from "./heap.ts";

it.skipIf(process.versions["bun"] || process.versions["deno"])(
  "the pinned V8 knows the flags that are set, and takes them while it runs",
  () => {
    const known = execFileSync(process.execPath, ["--v8-options"], { encoding: "utf8" });
    expect(known).toContain(ARRAYS_FLAG);
    expect(known).toContain("--heap-growing-percent");
    const script = `import { countArraysAsHeap } from ${JSON.stringify(new URL("./heap.ts", import.meta.url).href)};
    countArraysAsHeap(60);
    let kept;
    for (let i = 0; i < 2_000; i++) kept = new Uint8Array(1_000_000).fill(i);
    console.log(kept[0]);`;
    const collections = (flags: string[], source: string) =>
      execFileSync(process.execPath, [...flags, "--trace-gc", "--input-type=module", "-e", source], { encoding: "utf8" }).match(
        /Mark-Compact/g,
      )?.length ?? 0;
    const plain = collections([], script.replace("countArraysAsHeap(60)", "void countArraysAsHeap"));
    expect(collections([], script)).toBeLessThan(plain / 2);
  },
);
