import { sleep } from "@tributary/common/clock";
import { hasCode } from "@tributary/common/errors";
import type { SimWorld } from "../sim-world.ts";
import { nameOf, optionsOf, pause, type Service, startClient, type Workplace } from "./client.ts";

const TIMEOUT_MS = 3_000;
const TRIES_MAX = 6;

/** Deletes a stream now and then, while others write and read it. Mostly it creates the name again at once; else a writer does. */
export function startDeleter(world: SimWorld, name: string, service: Service, at: Workplace): void {
  const { dice, fates } = world;
  startClient(world, name, async (client) => {
    for (;;) {
      await sleep(client.clock, dice.between(`pause of ${name}`, 2_000, 9_000));
      if (!world.working) return;
      const stream = dice.pick(`stream of ${name}`, at.streams);
      for (let tries = 1; tries <= TRIES_MAX; tries++) {
        try {
          await world.request(client, service, TIMEOUT_MS, async (streams) => {
            // Learned before, so that it is known what the deletion ends.
            fates.learn(nameOf(stream), (await streams.describe(stream)).id);
            const deletion = fates.ask(at.writer(), nameOf(stream));
            await streams.delete(stream);
            fates.done(deletion);
            world.trace(name, `${nameOf(stream)} is deleted`);
          });
          break;
        } catch (error) {
          if (hasCode(error, "STREAM_UNKNOWN")) break;
          await pause(world, client, 1_000);
        }
      }
      if (dice.float(`again of ${name}`) < 0.3) continue;
      await world.request(client, service, TIMEOUT_MS, (streams) => streams.create(stream, optionsOf(stream))).catch(() => {});
    }
  });
}
