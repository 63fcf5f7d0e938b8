import { describe, expect, it } from "vitest";
import { COVERED_FOLDERS, fileCoverage, tellCoverage } from "./coverage.ts";
import type { ScriptCoverage } from "./coverage-session.ts";

const SOURCE = `import type { Kind } from "./kind.ts";

/**
 * A comment.
 */
interface Shape {
  readonly kind: Kind;
}

export function first(shape: Shape): number {
  if (shape.kind === 1) {
    return 1;
  }
  return 2;
}

export function second(): void {
  first({ kind: 1 });
}
`;

/** Coverage of the source in one thread: ranges by the text that they hold. */
function script(ran: { readonly second: number; readonly branch: number }): ScriptCoverage {
  const range = (from: string, to: string, count: number) => {
    const startOffset = SOURCE.indexOf(from);
    return { startOffset, endOffset: SOURCE.indexOf(to, startOffset) + to.length, count };
  };
  return {
    url: "file:///f.ts",
    functions: [
      { functionName: "", ranges: [{ startOffset: 0, endOffset: SOURCE.length, count: 1 }] },
      {
        functionName: "first",
        ranges: [range("function first", "return 2;\n}", 1), range("{\n    return 1", "}", ran.branch)],
      },
      { functionName: "second", ranges: [range("function second", "});\n}", ran.second)] },
    ],
  };
}

describe.runIf(process.versions["bun"] === undefined)("coverage", () => {
  it("counts lines with code, and names what was not reached", () => {
    const { lines, unreached, functions } = fileCoverage("f.ts", SOURCE, [script({ second: 0, branch: 0 })]);
    expect(lines).toBe(6);
    expect(unreached.map((line) => SOURCE.split("\n")[line - 1]?.trim())).toEqual(["return 1;", "first({ kind: 1 });"]);
    expect(functions).toEqual(["second"]);
  });

  it("takes together what several threads reached", () => {
    const threads = [script({ second: 0, branch: 1 }), script({ second: 1, branch: 0 })];
    expect(fileCoverage("f.ts", SOURCE, threads)).toMatchObject({ unreached: [], functions: [] });
  });

  it("takes a file that nothing loaded for unreached", () => {
    expect(fileCoverage("f.ts", SOURCE, []).unreached).toHaveLength(6);
  });

  it("fails below the least share of a folder, and prints ranges", () => {
    const told: string[] = [];
    const of = (unreached: readonly number[]) =>
      new Map(COVERED_FOLDERS.map(({ folder }) => [folder, [{ file: `${folder}/f.ts`, lines: 100, unreached, functions: [] }]]));
    expect(tellCoverage(of([1, 2, 3, 7]), (line) => told.push(line))).toBe(true);
    expect(told).toContain("   96.0 % edge/src/store/f.ts: 1-3 7");
    expect(tellCoverage(of(Array.from({ length: 16 }, (_, i) => i)), () => {})).toBe(false);
  });
});
