import { busContract } from "@tributary/common/contracts/bus.contract";
import { logContract } from "@tributary/common/contracts/log.contract";
import { metaStoreContract } from "@tributary/common/contracts/meta-store.contract";
import { objectStoreContract } from "@tributary/common/contracts/object-store.contract";
import { Dice } from "../dice.ts";
import type { SimEnvironment } from "../environment.ts";
import { Faults } from "../faults.ts";
import { SimProcess } from "../process.ts";
import { Scheduler } from "../scheduler.ts";
import { BusNetwork, QUIET_BUS, SimBus } from "./sim-bus.ts";
import { LogStore, QUIET_LOG, SimLog } from "./sim-log.ts";
import { MetaState, QUIET_META, SimMetaStore } from "./sim-meta-store.ts";
import { ObjectShelf, QUIET_OBJECTS, SimObjectStore } from "./sim-object-store.ts";

/** A world without faults whose time follows the real one, since the contract suites wait in real time. */
function liveWorld() {
  const scheduler = new Scheduler((error) => {
    throw error;
  });
  const dice = new Dice(1);
  const environment: SimEnvironment = { scheduler, dice, faults: new Faults(dice, () => scheduler.nowMs, 0, undefined) };
  let running = true;
  const startedMs = performance.now();
  const pump = async () => {
    while (running) {
      await scheduler.runUntil(performance.now() - startedMs, () => !running);
      await new Promise((resolve) => setImmediate(resolve));
    }
  };
  const pumping = pump();
  const process = (name: string) => new SimProcess(scheduler, name, dice.random(name));
  return {
    environment,
    process,
    close: async () => {
      running = false;
      await pumping;
    },
  };
}

for (const local of [true, false]) {
  logContract(local ? "simulated disk" : "simulated remote log", async () => {
    const { environment, process, close } = liveWorld();
    const store = new LogStore("log");
    let opened = 0;
    return { open: async () => new SimLog(store, process(`p${opened++}`), environment, { ...QUIET_LOG, local }), close };
  });
}

metaStoreContract("simulated", async () => {
  const { environment, process, close } = liveWorld();
  const state = new MetaState();
  let opened = 0;
  return { open: async () => new SimMetaStore(state, process(`p${opened++}`), environment, QUIET_META), close };
});

busContract("simulated", async () => {
  const { environment, process, close } = liveWorld();
  const network = new BusNetwork(environment, QUIET_BUS);
  return { client: new SimBus(network, process("client")), server: new SimBus(network, process("server")), close };
});

objectStoreContract("simulated", async () => {
  const { environment, process, close } = liveWorld();
  const shelf = new ObjectShelf();
  let opened = 0;
  return { open: async () => new SimObjectStore(shelf, process(`p${opened++}`), environment, QUIET_OBJECTS), close };
});
