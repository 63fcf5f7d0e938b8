import { freePorts } from "@tributary/common/testing/free-ports";
import type { LocalClusterOptions } from "../local-cluster/local-cluster.ts";

const SERVERS = 3;

/** Ports of three nats-servers, three core nodes and so many gateways. */
export async function clusterPorts(gateways: number): Promise<Pick<LocalClusterOptions, "natsPorts" | "corePorts" | "gateways">> {
  const ports = await freePorts(2 * SERVERS + 2 * gateways);
  const take = (count: number) => ports.splice(0, count);
  return {
    natsPorts: take(SERVERS),
    corePorts: take(SERVERS),
    gateways: Array.from({ length: gateways }, () => {
      const [httpPort, mqttPort] = take(2) as [number, number];
      return { httpPort, mqttPort };
    }),
  };
}
