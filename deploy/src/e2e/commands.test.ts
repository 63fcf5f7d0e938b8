import { readFile, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { append, http, readAll } from "./testing/http.ts";
import { launch, newFolder, reported, type Server, startServer, tributary, until } from "./testing/tributary.ts";

let folder: string;
let remove: () => Promise<void>;
let server: Server;
let gateway: readonly string[];
let core: readonly string[];
beforeAll(async () => {
  ({ folder, remove } = await newFolder());
  server = await startServer("up", [
    "--data",
    join(folder, "data"),
    "--set",
    "edge.vitalsIntervalMs=50",
    "--set",
    "core.flushIntervalMs=100",
  ]);
  gateway = ["--server", server.gatewayHttp];
  core = ["--server", server.coreHttp];
});
afterAll(async () => {
  await server.kill();
  await remove();
});

const atCore = (stream: string, count: number) =>
  until(`${count} events of ${stream} at the core`, async () => (await readAll(server.coreHttp, stream).catch(() => [])).length === count);

describe("replay", () => {
  /** What recordings are really like: CRLF and LF, ragged columns, repeated and empty lines, a byte that is no UTF-8, no end of line at the end. */
  const RECORDING = Buffer.concat([
    Buffer.from("time,car,rpm\r\n2026-05-01T08:00:00,7,900\r\n2026-05-01T08:00:01,7,910,extra,,\r\n"),
    Buffer.from("2026-05-01T08:00:01,7,910,extra,,\r\n\r\n2026-05-01T07:59:59,8\n\n"),
    Buffer.from([0xff, 0xfe, 0x2c, 0x0d, 0x0a]),
    Buffer.from('2026-05-01T08:00:02,7,"quoted, 1"\r\nlast,9,1'),
  ]);

  test.for(["http", "mqtt"])("of a ragged file by %s reads back byte for byte", async (via) => {
    const file = join(folder, "drive.csv");
    await writeFile(file, RECORDING);
    const stream = `replayed/${via}`;
    const sent = await tributary([
      ...["replay", file, "--stream", stream, "--via", via, "--mqtt", `127.0.0.1:${server.mqttPort}`, "--time-column", "time"],
      ...["--time-zone", "America/Chicago", "--key", "car-7", "--json", ...gateway],
    ]);
    expect(sent).toMatchObject({ code: 0, stderr: "" });
    const lines = RECORDING.toString("latin1").match(/[^\n]*\n|[^\n]+$/g) as string[];
    expect(JSON.parse(sent.stdout)).toMatchObject({ events: lines.length, bytes: RECORDING.length });
    await atCore(stream, lines.length);
    for (const side of [gateway, core]) {
      const read = await tributary(["read", stream, ...side]);
      expect(read).toMatchObject({ code: 0, stderr: "" });
      expect(Buffer.from(read.stdout, "latin1").equals(RECORDING)).toBe(true);
    }
    const records = await readAll(server.coreHttp, stream);
    expect(new Set(records.map((record) => record.key))).toEqual(new Set(["car-7"]));
    if (via === "http") expect(new Date(records[1]?.time ?? 0).toISOString()).toBe("2026-05-01T13:00:00.000Z");
  });

  test("with keys of a column; a key that no topic can hold is refused before it costs the connection", async () => {
    const file = join(folder, "keys.csv");
    await writeFile(file, "name,value\na,1\nb+c,2\n");
    const args = ["replay", file, "--key-column", "name", "--header", "skip", "--json", ...gateway];
    expect(await tributary([...args, "--stream", "replayed/keys"])).toMatchObject({ code: 0 });
    expect((await readAll(server.gatewayHttp, "replayed/keys")).map((record) => record.key)).toEqual(["a", "b+c"]);
    const byMqtt = await tributary([...args, "--stream", "replayed/topics", "--via", "mqtt", "--mqtt", `127.0.0.1:${server.mqttPort}`]);
    expect(byMqtt.code).toBe(1);
    expect(reported(byMqtt)).toMatchObject({ code: "INVALID_REQUEST", message: expect.stringContaining("b+c") });
  });

  test("to a listener that is not there", async () => {
    const file = join(folder, "drive.csv");
    await writeFile(file, RECORDING);
    const failed = await tributary(["replay", file, "--stream", "a/b", "--via", "mqtt", "--mqtt", "127.0.0.1:9", "--json"]);
    expect(failed.code).toBe(1);
    expect(reported(failed)?.code).toBe("SERVER_UNREACHABLE");
  });
});

describe("write and read", () => {
  test("arguments and lines, each as it is", async () => {
    const refused = await tributary(["write", "cli/log", "x", "--json", ...gateway]);
    expect(refused.code).toBe(1);
    expect(reported(refused)).toMatchObject({ code: "STREAM_UNKNOWN", hint: expect.stringContaining("tributary stream create") });
    expect(await tributary(["write", "cli/log", "--create", "one\n", "two\n", ...gateway])).toMatchObject({
      code: 0,
      stdout: "2 events written\n",
    });
    expect(await tributary(["write", "cli/log", "--key", "k", ...gateway], { input: "three\r\nfour" })).toMatchObject({ code: 0 });
    expect(await tributary(["read", "cli/log", ...gateway])).toMatchObject({ code: 0, stdout: "one\ntwo\nthree\r\nfour" });
    const limited = await tributary(["read", "cli/log", "--limit", "1", "--envelope", ...gateway]);
    expect(JSON.parse(limited.stdout)).toMatchObject({ kind: "event", data: "one\n", number: 1 });
  });

  test("a slow source's lines do not wait for each other, and a reader follows them", async () => {
    await http("PUT", `${server.gatewayHttp}/v1/stream/cli/slow`);
    const reader = launch(["read", "cli/slow", "--follow", ...gateway]);
    const writer = launch(["write", "cli/slow", ...gateway]);
    for (let n = 1; n <= 3; n++) {
      writer.child.stdin?.write(`line ${n}\n`);
      await until(`line ${n} to be read`, () => reader.stdout().endsWith(`line ${n}\n`));
    }
    writer.child.stdin?.end();
    await writer.closed;
    expect(writer.child.exitCode).toBe(0);
    reader.child.kill("SIGINT");
    await reader.closed;
    expect(reader.child.exitCode).toBe(0);
    expect(reader.stdout()).toBe("line 1\nline 2\nline 3\n");
  });

  test("at level tiered a core gives what is in the lake, as it comes there; a gateway sends such readers to the core", async () => {
    const stream = "cli/tiered";
    await http("PUT", `${server.coreHttp}/v1/stream/${stream}`);
    const url = `${server.coreHttp}/v1/stream/${stream}?level=tiered`;
    const begin = await http("HEAD", url);
    const offset = begin.headers.get("stream-next-offset");
    const waiting = http("GET", `${url}&offset=${offset}&live=long-poll`);
    await append(server.coreHttp, stream, "first", { "stream-closed": "true" });
    expect(await waiting).toMatchObject({ status: 200, body: "first" });
    const sse = await http("GET", `${url}&offset=-1&live=sse`, { headers: { accept: "text/event-stream" } });
    expect(sse.body).toContain(`data:${Buffer.from("first").toString("base64")}`);
    expect(sse.body).toContain('"streamClosed":true');
    expect(await tributary(["read", stream, "--level", "tiered", "--follow", ...core])).toMatchObject({ code: 0, stdout: "first" });
    expect(await tributary(["read", stream, "--level", "fsynced", ...core])).toMatchObject({ code: 2 });
    await http("PUT", `${server.gatewayHttp}/v1/stream/${stream}`);
    const refused = await http("GET", `${server.gatewayHttp}/v1/stream/${stream}?level=tiered`);
    expect(refused).toMatchObject({ status: 400, code: "INVALID_REQUEST", body: expect.stringContaining("ask the core") });
  });

  test("a reader of the output that leaves is no error", async () => {
    const reader = launch(["read", "gateway/vitals", "--follow", ...gateway]);
    await until("some output", () => reader.stdout().length > 0);
    reader.child.stdout?.destroy();
    await reader.closed;
    expect({ code: reader.child.exitCode, stderr: reader.stderr() }).toEqual({ code: 0, stderr: "" });
  });
});

describe("streams and status", () => {
  test("create, list, describe and delete", async () => {
    const name = "cli/made";
    expect(await tributary(["stream", "create", name, "--segments", "3", ...core])).toMatchObject({ code: 0, stdout: `created ${name}\n` });
    expect(await tributary(["stream", "create", name, ...core])).toMatchObject({ code: 0, stdout: expect.stringContaining("exists") });
    const other = await tributary(["stream", "create", name, "--segments", "2", "--json", ...core]);
    expect([other.code, reported(other)?.code]).toEqual([1, "STREAM_EXISTS"]);
    expect((await tributary(["stream", "list", "cli", ...core])).stdout).toContain(`${name}\t0 events\t3 segments`);
    expect((await tributary(["stream", "describe", name, ...core])).stdout).toMatch(/^segments\.2\.id +0\.0\.2$/m);
    expect(await tributary(["stream", "delete", name, ...core])).toMatchObject({ code: 0 });
    const gone = await tributary(["stream", "describe", name, "--json", ...core]);
    expect([gone.code, reported(gone)?.code]).toEqual([1, "STREAM_UNKNOWN"]);
  });

  test("status is flat for people and JSON for programs", async () => {
    const people = await tributary(["status"], { env: { TRIBUTARY_SERVER: server.gatewayHttp } });
    expect(people).toMatchObject({ code: 0, stdout: expect.stringMatching(/^uplink\.state +sending$/m) });
    expect(people.stdout).not.toContain("{");
    const programs = await tributary(["status", "--json", ...core]);
    expect(JSON.parse(programs.stdout)).toMatchObject([{ side: "core", status: { containers: [{ state: "serving" }] } }]);
  });
});

describe("verify", () => {
  test("ends with 0 where all is well", async () => {
    await append(server.gatewayHttp, "cli/log", "x");
    const verified = await tributary(["verify", ...core]);
    expect(verified).toMatchObject({ code: 0, stdout: expect.stringContaining("0 missing, 0 doubled, 0 reordered") });
    const unknown = await tributary(["verify", "cli/none", "--json", ...core]);
    expect([unknown.code, reported(unknown)?.code]).toEqual([1, "STREAM_UNKNOWN"]);
  });

  test("ends with 3 where a number is missing, doubled or out of order", async () => {
    const line = (number: number, ordinal: number) =>
      `${JSON.stringify({ kind: "event", key: "k", time: 0, segment: "0.0.0", ordinal, writer: "w", incarnation: "i", lane: "live", number, data: "" })}\n`;
    const broken: Record<string, string> = {
      missing: line(1, 0) + line(3, 1),
      doubled: line(1, 0) + line(1, 1),
      reordered: line(2, 0) + line(1, 1),
    };
    const liar = createServer((request, response) => {
      const name = (request.url ?? "").match(/\/(missing|doubled|reordered)/)?.[1] ?? "";
      if (request.url?.startsWith("/v1/scopes")) response.end(JSON.stringify({ events: 2 }));
      else response.setHeader("Stream-Up-To-Date", "true").end(broken[name]);
    });
    await new Promise<void>((resolve) => liar.listen(0, "127.0.0.1", resolve));
    const { port } = liar.address() as { port: number };
    for (const kind of Object.keys(broken)) {
      const verified = await tributary(["verify", `a/${kind}`, "--server", `http://127.0.0.1:${port}`]);
      expect(verified).toMatchObject({ code: 3, stdout: expect.stringContaining(`1 ${kind}`) });
    }
    liar.close();
  });
});

/** The recordings of real machines, where they are at hand. */
const recording = fileURLToPath(new URL("../../../../shared/data/vehicle/drive4.csv", import.meta.url));
const bytes = await readFile(recording).catch(() => undefined);
test.skipIf(bytes === undefined)("a real recording, by MQTT at full speed", async () => {
  const args = ["replay", recording, "--stream", "replayed/real", "--via", "mqtt", "--mqtt", `127.0.0.1:${server.mqttPort}`, ...gateway];
  expect(await tributary(args)).toMatchObject({ code: 0 });
  const read = await tributary(["read", "replayed/real", ...gateway]);
  expect(Buffer.from(read.stdout, "latin1").equals(bytes as Buffer)).toBe(true);
});
