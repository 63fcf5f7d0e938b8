/**
 * Hands out events at a fixed rate however slow the answers are (open loop), so that a slow server shows as latency and not as a
 * lower rate. Calls `due` with how many events have become due since the last call.
 */
export function startPacer(eventsPerSecond: number, due: (events: number) => void): () => void {
  const startedMs = performance.now();
  let handedOut = 0;
  let timer: NodeJS.Timeout;
  const turn = () => {
    const total = Math.floor(((performance.now() - startedMs) / 1000) * eventsPerSecond);
    if (total > handedOut) {
      due(total - handedOut);
      handedOut = total;
    }
    timer = setTimeout(turn, 1);
  };
  timer = setTimeout(turn, 1);
  return () => clearTimeout(timer);
}
