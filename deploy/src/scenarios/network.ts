import { execFileSync } from "node:child_process";
import type { Place } from "@tributary/common/testing/nats-server";

/** Something by which a process can be cut off from everybody else. */
export interface Line {
  cut(): void;
  mend(): void;
}

const INTERFACE_NAME_MAX = 15;

/** Machines of one switch: a network namespace each, and a bridge that they and this process are on. Needs root and `ip`. */
export class Network {
  readonly #prefix: string;
  readonly #subnet: string;
  readonly #hosts: ReadonlyMap<string, number>;

  private constructor(prefix: string, hosts: readonly string[]) {
    this.#prefix = prefix;
    // Of the range for benchmarks between networks (RFC 2544): no machine has it.
    this.#subnet = `198.18.${process.pid % 256}`;
    this.#hosts = new Map(hosts.map((host, i) => [host, i + 2]));
  }

  /** undefined where this process may not. */
  static create(hosts: readonly string[]): Network | undefined {
    const network = new Network(`tr${process.pid}`, hosts);
    try {
      network.#build();
      return network;
    } catch {
      network.destroy();
      return undefined;
    }
  }

  placeOf(host: string): Place | undefined {
    const number = this.#hosts.get(host);
    if (number === undefined) return undefined;
    return { host: `${this.#subnet}.${number}`, program: ["ip", "netns", "exec", this.#namespace(number)] };
  }

  lineOf(host: string): Line | undefined {
    const number = this.#hosts.get(host);
    if (number === undefined) return undefined;
    const link = this.#link(number);
    return { cut: () => ip("link", "set", link, "down"), mend: () => ip("link", "set", link, "up") };
  }

  destroy(): void {
    for (const number of this.#hosts.values()) quietly("netns", "del", this.#namespace(number));
    quietly("link", "del", this.#prefix);
  }

  #build(): void {
    const bridge = this.#prefix;
    ip("link", "add", bridge, "type", "bridge");
    ip("addr", "add", `${this.#subnet}.1/24`, "dev", bridge);
    ip("link", "set", bridge, "up");
    for (const number of this.#hosts.values()) {
      const [namespace, link] = [this.#namespace(number), this.#link(number)];
      ip("netns", "add", namespace);
      ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", namespace);
      ip("link", "set", link, "master", bridge, "up");
      ip("-n", namespace, "addr", "add", `${this.#subnet}.${number}/24`, "dev", "eth0");
      for (const device of ["lo", "eth0"]) ip("-n", namespace, "link", "set", device, "up");
    }
  }

  #namespace(number: number): string {
    return `${this.#prefix}n${number}`;
  }

  #link(number: number): string {
    return `${this.#prefix}l${number}`.slice(0, INTERFACE_NAME_MAX);
  }
}

function ip(...args: string[]): void {
  execFileSync("ip", args, { stdio: "pipe" });
}

function quietly(...args: string[]): void {
  try {
    ip(...args);
  } catch {
    // It was never made.
  }
}
