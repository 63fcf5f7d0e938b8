import { busContract } from "../contracts/bus.contract.ts";
import { createMemoryBus } from "./memory-bus.ts";

busContract("in process", async () => {
  const bus = createMemoryBus();
  return { client: bus, server: bus, close: () => bus.close() };
});
