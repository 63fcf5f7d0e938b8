import type { CoreServer } from "@tributary/core/server";
import type { GatewayServer } from "@tributary/edge/server";

const INTERVAL_MS = 1_000;
/** Back to the start of the terminal's line, and clears it. */
const LINE_ANEW = "\r\x1b[2K";
/** Without a terminal a line a second would only fill a log. */
const PLAIN_INTERVAL_MS = 10_000;

/** Shows counts, renewed in place on a terminal. Returns a function that stops it. */
export function startLiveLine({ gateway, core }: { gateway?: GatewayServer; core?: CoreServer }): () => void {
  const terminal = process.stdout.isTTY === true;
  let lastDurable = gateway?.gateway.status().counters.eventsDurable ?? 0;
  let lastAt = performance.now();
  const show = () => {
    const parts: string[] = [];
    if (gateway) {
      const { counters, usage, uplink, trouble } = gateway.gateway.status();
      const seconds = (performance.now() - lastAt) / 1_000;
      const rate = Math.round((counters.eventsDurable - lastDurable) / Math.max(seconds, 0.001));
      lastDurable = counters.eventsDurable;
      lastAt = performance.now();
      parts.push(`accepted ${counters.eventsDurable} (${rate}/s)`, `held ${usage.eventsHeld}`, `edge log ${mebibytes(usage.diskBytes)}`);
      if (uplink) parts.push(`uplink ${uplink.state}`);
      if (trouble !== "") parts.push(trouble);
    }
    if (core) {
      const { eventsDurable, eventsTiered, streams } = core.core.status();
      parts.push(`core ${eventsDurable} events`, `in the lake ${eventsTiered}`, `streams ${streams}`);
    }
    const line = parts.join(" | ");
    if (terminal) process.stdout.write(`${LINE_ANEW}${line.slice(0, Math.max(20, (process.stdout.columns ?? 120) - 1))}`);
    else process.stdout.write(`${line}\n`);
  };
  const first = setTimeout(show, INTERVAL_MS);
  const timer = setInterval(show, terminal ? INTERVAL_MS : PLAIN_INTERVAL_MS);
  return () => {
    clearTimeout(first);
    clearInterval(timer);
    if (terminal) process.stdout.write("\n");
  };
}

/** Writes a line of the log. On the live line's terminal it takes its place; the live line comes again below. */
export function writeLogLine(line: string): void {
  const shared = process.stdout.isTTY === true && process.stderr.isTTY === true;
  process.stderr.write(shared ? `${LINE_ANEW}${line}` : line);
}

function mebibytes(bytes: number): string {
  return `${(bytes / 1_048_576).toFixed(1)} MiB`;
}
