import { Ledger } from "./ledger.ts";
import { type Load, startLoad } from "./load.ts";
import type { LoadNews, LoadOrder } from "./load-processes.ts";

/** The entry of a load process: devices of several gateways, whose histories it tells over the channel and then forgets. */
const NEWS_MS = 200;

const ledger = new Ledger();
const loads: Load[] = [];
let refusalsTold = 0;

/** One at a time: while the scenario is slow to listen, histories gather as ranges of numbers, not as messages. */
function tell(last: boolean): Promise<void> {
  const refusals = loads.flatMap((load) => load.refusals);
  const connections = loads.map((load) => load.connections());
  const news: LoadNews = {
    reports: ledger.takeReports(),
    refusals: refusals.slice(refusalsTold),
    connections: {
      open: connections.reduce((sum, { open }) => sum + open, 0),
      made: connections.reduce((sum, { made }) => sum + made, 0),
    },
    last,
  };
  refusalsTold = refusals.length;
  return new Promise((resolve) => process.send?.(news, () => resolve()));
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

let over = false;
// The scenario is gone.
process.on("disconnect", () => process.exit(1));
process.on("message", (order: LoadOrder) => {
  if ("begin" in order) loads.push(...order.begin.map((options) => startLoad(ledger, options)));
  else {
    const drained = Promise.all(loads.map((load) => load.drain()));
    void Promise.race([drained, pause(order.drainWithinMs)]).then(() => {
      over = true;
    });
  }
});

for (;;) {
  await pause(NEWS_MS);
  const last = over;
  await tell(last);
  if (last) process.exit(0);
}
