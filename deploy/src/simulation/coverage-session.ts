import { Session } from "node:inspector/promises";

/** What V8 knows of a script: ranges of its functions and blocks, outer ones first, and how often each ran. */
export interface ScriptCoverage {
  readonly url: string;
  readonly functions: readonly {
    readonly functionName: string;
    readonly ranges: readonly { readonly startOffset: number; readonly endOffset: number; readonly count: number }[];
  }[];
}

/** Notes what this thread runs of all that it loads from now on. */
export async function startCoverage(): Promise<{ take(): Promise<ScriptCoverage[]> }> {
  const session = new Session();
  session.connect();
  await session.post("Profiler.enable");
  await session.post("Profiler.startPreciseCoverage", { callCount: true, detailed: true });
  return {
    async take() {
      const { result } = await session.post("Profiler.takePreciseCoverage");
      session.disconnect();
      return result.flatMap(({ url, functions }) => (url.startsWith("file:") ? [{ url, functions }] : []));
    },
  };
}
