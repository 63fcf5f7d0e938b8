import { SingleBar } from "cli-progress";

export interface Progress {
  advance(count: number): void;
  stop(): void;
}

/** A bar on a terminal; nothing where nobody watches. */
export function createProgress(title: string, total: number, quiet: boolean): Progress {
  if (quiet || !process.stderr.isTTY) return { advance: () => {}, stop: () => {} };
  const bar = new SingleBar({
    format: `${title} {bar} {percentage}% {value}/{total} {eta_formatted}`,
    stream: process.stderr,
    hideCursor: true,
  });
  bar.start(Math.max(total, 1), 0);
  return { advance: (count) => bar.increment(count), stop: () => bar.stop() };
}
