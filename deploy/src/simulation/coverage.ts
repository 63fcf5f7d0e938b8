import { readdirSync, readFileSync } from "node:fs";
// As a whole: not every runtime has the function used here.
import nodeModule from "node:module";
import type { ScriptCoverage } from "./coverage-session.ts";

const ROOT = new URL("../../../", import.meta.url);

/** What stories have to reach, and how much of its lines at least. */
export const COVERED_FOLDERS: readonly { readonly folder: string; readonly linesMin: number }[] = [
  { folder: "edge/src/store", linesMin: 0.85 },
  { folder: "edge/src/uplink", linesMin: 0.85 },
  { folder: "edge/src/gateway", linesMin: 0 },
  { folder: "core/src/container", linesMin: 0.85 },
  { folder: "core/src/tier", linesMin: 0.85 },
  { folder: "core/src/service", linesMin: 0 },
];

/** Adapters to threads and files: a simulated disk stands in their place. */
export const NOT_COVERED: readonly string[] = [
  "edge/src/store/worker-edge-entry.ts",
  "edge/src/store/worker-edge-protocol.ts",
  "edge/src/store/worker-edge-store.ts",
  "edge/src/store/file-reserve.ts",
  "edge/src/store/quarantine-folder.ts",
];

export interface FileCoverage {
  readonly file: string;
  /** Lines with code. */
  readonly lines: number;
  readonly unreached: readonly number[];
  /** Names of functions that never ran. */
  readonly functions: readonly string[];
}

/** Files below the folders, each with what the threads together reached of it. */
export function coverageOf(scripts: readonly ScriptCoverage[]): Map<string, FileCoverage[]> {
  const byUrl = Map.groupBy(scripts, ({ url }) => url);
  return new Map(
    COVERED_FOLDERS.map(({ folder }) => [
      folder,
      readdirSync(new URL(folder, ROOT))
        .filter((name) => name.endsWith(".ts") && !name.endsWith(".test.ts"))
        .map((name) => `${folder}/${name}`)
        .filter((file) => !NOT_COVERED.includes(file))
        .map((file) => {
          const url = new URL(file, ROOT);
          return fileCoverage(file, readFileSync(url, "utf8"), byUrl.get(url.href) ?? []);
        })
        // Types alone.
        .filter(({ lines }) => lines > 0),
    ]),
  );
}

/** A line counts as reached if any of it ran in any of the threads. */
export function fileCoverage(file: string, source: string, scripts: readonly ScriptCoverage[]): FileCoverage {
  const text = nodeModule.stripTypeScriptTypes(source);
  const reached = new Uint8Array(text.length);
  const ran = new Set<string>();
  const known = new Map<string, string>();
  for (const { functions } of scripts) {
    const here = new Uint8Array(text.length).fill(1);
    for (const { functionName, ranges } of functions) {
      // Inner ranges come behind the ones around them.
      for (const { startOffset, endOffset, count } of ranges) here.fill(count > 0 ? 1 : 0, startOffset, endOffset);
      const place = `${functionName} ${ranges[0]?.startOffset}`;
      if (functionName !== "") known.set(place, functionName);
      if (ranges[0] && ranges[0].count > 0) ran.add(place);
    }
    here.forEach((value, at) => {
      if (value > 0) reached[at] = 1;
    });
  }
  const unreached: number[] = [];
  let lines = 0;
  let start = 0;
  for (const [index, line] of text.split("\n").entries()) {
    if (hasCode(line)) {
      lines++;
      const codeAt = start + line.search(/\S/);
      if (!reached.subarray(codeAt, start + line.trimEnd().length).includes(1)) unreached.push(index + 1);
    }
    start += line.length + 1;
  }
  return { file, lines, unreached, functions: [...known].flatMap(([place, name]) => (ran.has(place) ? [] : [name])) };
}

/** Comments stand on lines of their own; brackets alone are no code. */
function hasCode(line: string): boolean {
  const text = line.trim();
  return /\w/.test(text) && !/^(\/\/|\/\*|\*)/.test(text);
}

/** Prints a report; false if a folder is below what it must have. */
export function tellCoverage(coverage: ReadonlyMap<string, readonly FileCoverage[]>, write: (line: string) => void): boolean {
  let enough = true;
  write("\nLines reached by the simulation alone");
  for (const { folder, linesMin } of COVERED_FOLDERS) {
    const files = coverage.get(folder) ?? [];
    const lines = files.reduce((sum, file) => sum + file.lines, 0);
    const share = 1 - files.reduce((sum, { unreached }) => sum + unreached.length, 0) / lines;
    const below = share < linesMin;
    if (below) enough = false;
    write(`${percent(share)} ${folder}${below ? `: BELOW ${(linesMin * 100).toFixed(0)} %` : ""}`);
    for (const file of files) {
      if (file.unreached.length === 0) continue;
      write(`  ${percent(1 - file.unreached.length / file.lines)} ${file.file}: ${rangesOf(file.unreached)}`);
      if (file.functions.length > 0) write(`          never called: ${file.functions.join(", ")}`);
    }
  }
  write(`not asked for: ${NOT_COVERED.join(", ")}`);
  return enough;
}

function percent(share: number): string {
  // Never rounded up to a hundred.
  return `${(Math.floor(share * 1000) / 10).toFixed(1).padStart(5)} %`;
}

/** "3-5 9" of 3, 4, 5, 9. */
function rangesOf(lines: readonly number[]): string {
  const ranges: { from: number; to: number }[] = [];
  for (const line of lines) {
    const last = ranges.at(-1);
    if (last && last.to + 1 === line) last.to = line;
    else ranges.push({ from: line, to: line });
  }
  return ranges.map(({ from, to }) => (from === to ? from : `${from}-${to}`)).join(" ");
}
