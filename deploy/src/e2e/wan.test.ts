import { type ChildProcess, execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { connectNats } from "@tributary/common/engines/nats-connection";
import { type CertificateFiles, createAuthority, type TestAuthority } from "@tributary/common/testing/certificates";
import { freePorts } from "@tributary/common/testing/free-ports";
import { findNatsServer } from "@tributary/common/testing/nats-server";
import { afterAll, beforeAll, expect, test } from "vitest";
import { append, http, readPayloads } from "./testing/http.ts";
import { type GatewayFacts, newFolder, reported, type Server, startServer, statusOf, tributary, until } from "./testing/tributary.ts";

/** The configuration files that the project ships, run as they are. */
const SHIPPED = fileURLToPath(new URL("../../nats/", import.meta.url));
const PASSWORDS = {
  NATS_ADMIN_PASSWORD: "admin-secret",
  TRIBUTARY_CORE_PASSWORD: "core-secret",
  TRIBUTARY_GATEWAY_PASSWORD: "gateway-secret",
  TRIBUTARY_SITE_PASSWORD: "site-secret",
};

let folder: string;
let authority: TestAuthority;
let hub: Nats;
let core: Server;
const stops: (() => Promise<unknown>)[] = [];

interface Nats {
  readonly url: string;
  readonly leafPort: number;
}

async function startShipped(file: string, env: Record<string, string>): Promise<ChildProcess> {
  const child = spawn(await findNatsServer(), ["-c", join(SHIPPED, file)], {
    env: { ...process.env, ...PASSWORDS, ...env },
    stdio: ["ignore", "ignore", "pipe"],
  });
  let log = "";
  child.stderr?.setEncoding("utf8").on("data", (text: string) => {
    log += text;
  });
  stops.push(async () => {
    if (child.exitCode !== null) return;
    child.kill("SIGTERM");
    await once(child, "close");
  });
  await until(`nats-server with ${file}`, () => {
    if (child.exitCode !== null) throw new Error(`nats-server ended with ${child.exitCode}:\n${log}`);
    return log.includes("Server is ready");
  });
  return child;
}

/** Three servers, each with the configuration that the project ships. */
async function startHub(): Promise<Nats> {
  const ports = await freePorts(9);
  const clusterPorts = ports.slice(6);
  const routes = clusterPorts.map((port) => `"nats://127.0.0.1:${port}"`).join(", ");
  await Promise.all(
    clusterPorts.map(async (clusterPort, i) => {
      const server = await authority.issue(`nats${i}`);
      await startShipped("server.conf", {
        NATS_NAME: `nats${i}`,
        NATS_STORE: join(folder, `nats${i}`),
        NATS_LISTEN: `"127.0.0.1:${ports[i]}"`,
        NATS_LEAF_LISTEN: `"127.0.0.1:${ports[3 + i]}"`,
        NATS_CLUSTER_LISTEN: `"127.0.0.1:${clusterPort}"`,
        NATS_ROUTES: `[${routes}]`,
        NATS_TLS_CERT: server.certFile,
        NATS_TLS_KEY: server.keyFile,
        NATS_TLS_CA: authority.caFile,
      });
    }),
  );
  const url = ports
    .slice(0, 3)
    .map((port) => `tls://127.0.0.1:${port}`)
    .join(",");
  return { url, leafPort: ports[3] as number };
}

const tlsFlags = ({ certFile, keyFile }: CertificateFiles) => [
  ...["--set", `nats.tls.ca=${authority.caFile}`, "--set", `nats.tls.cert=${certFile}`, "--set", `nats.tls.key=${keyFile}`],
];
const GATEWAY_USER = ["--set", "nats.user=gateway", "--set", "nats.inboxPrefix=_INBOX_gateway", "--set", "edge.vitalsIntervalMs=0"];

async function startGateway(name: string, url: string, flags: readonly string[], password = "gateway-secret"): Promise<Server> {
  const credentials = [...GATEWAY_USER, "--set", `nats.password=${password}`];
  const server = await startServer("edge", ["--data", join(folder, name), "--nats", url, ...credentials, ...flags]);
  stops.push(() => server.kill());
  return server;
}

async function sendsToTheCore(gateway: Server, stream: string): Promise<void> {
  expect((await http("PUT", `${gateway.gatewayHttp}/v1/stream/${stream}`)).status).toBe(201);
  expect((await append(gateway.gatewayHttp, stream, "from far away")).status).toBe(204);
  await until("the gateway to be freed", async () => (await statusOf<GatewayFacts>(gateway.gatewayHttp)).usage.eventsHeld === 0);
  expect(await readPayloads(core.coreHttp, stream)).toEqual(["from far away"]);
}

beforeAll(async () => {
  let remove: () => Promise<void>;
  ({ folder, remove } = await newFolder());
  stops.push(() => remove());
  authority = await createAuthority(folder);
  hub = await startHub();
  const flags = ["nats.user=core", "nats.password=core-secret", "nats.replicas=3", "core.flushIntervalMs=100"].flatMap((set) => [
    "--set",
    set,
  ]);
  core = await startServer("core", [
    "--data",
    join(folder, "core"),
    "--nats",
    hub.url,
    ...flags,
    ...tlsFlags(await authority.issue("core")),
  ]);
  stops.push(() => core.kill());
}, 60_000);

afterAll(async () => {
  for (const stop of stops.toReversed()) await stop();
}, 60_000);

test("a gateway with a certificate and its own user sends to the core", async () => {
  const gateway = await startGateway("gateway", hub.url, tlsFlags(await authority.issue("gateway")));
  await sendsToTheCore(gateway, "site/direct");
});

test("a gateway sends through the leaf node of its site", async () => {
  const [port] = (await freePorts(1)) as [number];
  const site = await authority.issue("site");
  await startShipped("leaf.conf", {
    SITE_NAME: "site-1",
    SITE_LISTEN: `"127.0.0.1:${port}"`,
    HUB_URLS: `["tls://site:site-secret@127.0.0.1:${hub.leafPort}"]`,
    SITE_TLS_CERT: site.certFile,
    SITE_TLS_KEY: site.keyFile,
    HUB_TLS_CA: authority.caFile,
  });
  const gateway = await startGateway("behind-leaf", `nats://127.0.0.1:${port}`, []);
  await sendsToTheCore(gateway, "site/leaf");
});

test("a gateway's user can do what a gateway does, and nothing else", async () => {
  const tls = { caFile: authority.caFile, ...(await authority.issue("intruder")) };
  const link = await connectNats({ url: hub.url, user: "gateway", pass: "gateway-secret", tls, inboxPrefix: "_INBOX_gateway" });
  const { nc } = link;
  try {
    const refused: string[] = [];
    void (async () => {
      for await (const status of nc.status()) if (status.type === "error") refused.push(status.error.message);
    })();
    const forbidden = [
      "$JS.API.STREAM.LIST",
      "$JS.API.STREAM.DELETE.tributary-local-wal-0",
      "$JS.API.STREAM.PURGE.tributary-local-wal-0",
      "tributary.log.tributary-local-wal-0",
      "$KV.tributary-local.containers",
      "tributary.local.node.x.append",
    ];
    for (const subject of forbidden) nc.publish(subject, "x");
    for (const subject of [">", "_INBOX.>", "tributary.local.append.*", "$KV.>"]) {
      nc.subscribe(subject, { callback: (error) => void refused.push(error ? error.message : `UNEXPECTED message on ${subject}`) });
    }
    await nc.flush();
    await until("all to be refused", () => refused.length >= forbidden.length + 4);
    expect(refused.filter((message) => message.includes("UNEXPECTED"))).toEqual([]);
    for (const subject of forbidden) expect(refused.some((message) => message.includes(subject))).toBe(true);
  } finally {
    await link.close();
  }
});

test("an expired certificate, a missing one and a wrong password are told apart, and the gateway serves its devices meanwhile", async () => {
  const expired = await authority.issue("expired", -1_000);
  const gateway = await startGateway("expired", hub.url, tlsFlags(expired));
  await until("the gateway to say what is wrong", () => gateway.log().includes("expired at"));
  expect(gateway.log()).toContain(expired.certFile);
  expect((await http("PUT", `${gateway.gatewayHttp}/v1/stream/site/offline`)).status).toBe(201);
  expect((await append(gateway.gatewayHttp, "site/offline", "kept")).status).toBe(204);
  // A renewed certificate under the same names is taken without a restart.
  const renewed = await authority.issue("renewed");
  await promisify(execFile)("cp", [renewed.certFile, expired.certFile]);
  await promisify(execFile)("cp", [renewed.keyFile, expired.keyFile]);
  await until("the gateway to be freed", async () => (await statusOf<GatewayFacts>(gateway.gatewayHttp)).usage.eventsHeld === 0);
  expect(await readPayloads(core.coreHttp, "site/offline")).toEqual(["kept"]);

  const without = await startGateway("without", hub.url.split(",")[0] as string, ["--set", `nats.tls.ca=${authority.caFile}`]);
  await until("the gateway to say that it is refused", () => without.log().includes("cannot be reached"));

  const wrong = await tributary([
    ...["core", "--json", "--data", join(folder, "wrong"), "--http-port", "0", "--nats", hub.url, "--set", "nats.user=core"],
    ...["--set", "nats.password=guessed", ...tlsFlags(renewed)],
  ]);
  expect(wrong.code).toBe(2);
  expect(reported(wrong)).toMatchObject({ code: "CONFIG_INVALID", message: expect.stringContaining("refused the credentials") });
});

test("files of TLS that are not there or incomplete are refused before anything starts", async () => {
  const cases: [flags: string[], message: string][] = [
    [["--set", `nats.tls.cert=${authority.caFile}`], "belong together"],
    [["--set", "nats.tls.ca=/nowhere/ca.pem"], "cannot be read"],
    [["--set", `nats.tls.ca=${join(SHIPPED, "leaf.conf")}`], "no PEM file"],
    [["--set", "nats.inboxPrefix=a b"], "cannot begin a subject"],
  ];
  for (const [flags, message] of cases) {
    const refused = await tributary([
      "edge",
      "--json",
      "--data",
      join(folder, "refused"),
      "--http-port",
      "0",
      "--mqtt-port",
      "0",
      "--nats",
      hub.url,
      ...flags,
    ]);
    expect(reported(refused)).toMatchObject({ code: "CONFIG_INVALID", message: expect.stringContaining(message) });
  }
  expect(await readFile(join(SHIPPED, "accounts.conf"), "utf8")).toContain("system_account");
});
