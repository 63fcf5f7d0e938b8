import { execFileSync } from "node:child_process";
import { cp, writeFile } from "node:fs/promises";
import { createServer, type Server as NetServer } from "node:net";
import { dirname, join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { newFolder, reported, TRIBUTARY, tributary } from "./testing/tributary.ts";

let folder: string;
let remove: () => Promise<void>;
beforeAll(async () => {
  ({ folder, remove } = await newFolder());
  await writeFile(join(folder, "file"), "");
  await writeFile(join(folder, "not-json"), "{");
  await writeFile(join(folder, "unknown.json"), '{"edge":{"nonsense":1}}');
});
afterAll(() => remove());

describe("wrong usage ends with 2, a code of the table and what to do", () => {
  const cases: [what: string, args: string[], code: string][] = [
    ["an unknown command", ["bogus"], "USAGE"],
    ["an unknown command below stream", ["stream", "bogus"], "USAGE"],
    ["an unknown flag", ["up", "--bogus"], "USAGE"],
    ["an argument too many", ["up", "extra"], "USAGE"],
    ["a missing argument", ["read"], "USAGE"],
    ["a flag without its value", ["write", "s", "--key"], "USAGE"],
    ["an unknown setting", ["up", "--set", "nonsense=1"], "CONFIG_INVALID"],
    ["a setting that is no number", ["up", "--set", "edge.http.port=many"], "CONFIG_INVALID"],
    ["a setting below its limit", ["edge", "--set", "edge.diskBytesMax=1"], "CONFIG_INVALID"],
    ["a setting out of its choices", ["edge", "--set", "edge.diskPolicy=forget"], "CONFIG_INVALID"],
    ["a setting without a value", ["core", "--set", "cluster"], "USAGE"],
    ["a port beyond all ports", ["up", "--http-port", "65536"], "CONFIG_INVALID"],
    ["an address for everybody without credentials", ["up", "--set", "edge.http.host=0.0.0.0"], "CONFIG_INVALID"],
    ["an unknown log level", ["up", "--log-level", "loud"], "USAGE"],
    ["a settings file that does not exist", ["up", "--config", "FOLDER/none"], "CONFIG_INVALID"],
    ["a settings file that is not JSON", ["up", "--config", "FOLDER/not-json"], "CONFIG_INVALID"],
    ["a settings file with an unknown setting", ["up", "--config", "FOLDER/unknown.json"], "CONFIG_INVALID"],
    ["a data folder that is a file", ["up", "--data", "FOLDER/file"], "CONFIG_INVALID"],
    ["a data folder below a file", ["edge", "--data", "FOLDER/file/data"], "CONFIG_INVALID"],
    [
      "a data folder where none can be made",
      ["up", "--data", process.platform === "linux" ? "/proc/none" : "FOLDER/file/none"],
      "CONFIG_INVALID",
    ],
    ["a server that is no address", ["stream", "list", "--server", "nowhere"], "USAGE"],
    ["a file to replay that does not exist", ["replay", "FOLDER/none", "--stream", "s"], "USAGE"],
    ["a folder to replay", ["replay", "FOLDER", "--stream", "s"], "USAGE"],
    ["a replay at no rate", ["replay", "FOLDER/file", "--stream", "s", "--rate", "fast"], "USAGE"],
    ["a number of segments that is none", ["stream", "create", "s", "--segments", "few"], "USAGE"],
  ];
  test.concurrent.for(cases)("%s", async ([, args, code], { expect: check }) => {
    const finished = await tributary([...args.map((arg) => arg.replace("FOLDER", folder)), "--json"]);
    check(reported(finished)).toMatchObject({ code, message: expect.stringMatching(/./), hint: expect.stringMatching(/./) });
    check(finished.code).toBe(2);
    check(finished.stdout).toBe("");
  });
});

test("for people the same error is two lines", async () => {
  const finished = await tributary(["reed"]);
  expect(finished.stderr).toBe(
    "tributary: USAGE: unknown command 'reed'\n(Did you mean read?)\nSee 'tributary --help' and 'tributary COMMAND --help'.\n",
  );
});

test("no command at all shows the help and ends with 2; asked for, it ends with 0", async () => {
  const [bare, asked] = await Promise.all([tributary([]), tributary(["replay", "--help"])]);
  expect(bare).toMatchObject({ code: 2, stderr: expect.stringContaining("Examples:") });
  expect(asked).toMatchObject({ code: 0, stderr: "", stdout: expect.stringContaining("Examples:") });
});

test("a server that is not there ends with 1", async () => {
  const finished = await tributary(["status", "--json"], { env: { TRIBUTARY_SERVER: "http://127.0.0.1:9" } });
  expect(finished.code).toBe(1);
  expect(reported(finished)?.code).toBe("SERVER_UNREACHABLE");
});

test("a name that is none is refused before anything is sent", async () => {
  expect(reported(await tributary(["read", "no such name", "--json"]))?.code).toBe("INVALID_NAME");
});

describe("a port in use", () => {
  let other: NetServer;
  let port: string;
  beforeAll(async () => {
    other = createServer();
    await new Promise<void>((resolve) => other.listen(0, "127.0.0.1", resolve));
    port = String((other.address() as { port: number }).port);
  });
  afterAll(() => other.close());

  test.concurrent.for(["--http-port", "--mqtt-port", "--core-port"])("%s", async (flag, { expect: check }) => {
    const ports = ["--http-port", "--mqtt-port", "--core-port"].flatMap((name) => [name, name === flag ? port : "0"]);
    const finished = await tributary(["up", "--data", join(folder, `busy${flag}`), ...ports, "--json"]);
    check(finished.code).toBe(1);
    check(reported(finished)).toMatchObject({ code: "PORT_IN_USE", message: expect.stringContaining(port) });
  });
});

// /sys takes no folders from anyone, root included.
test("a data folder that may not be written", async () => {
  expect(reported(await tributary(["up", "--data", "/sys/tributary", "--json"]))?.code).toBe("CONFIG_INVALID");
});

/** A Node on this machine that is too old. */
const oldNode = execFileSync("which", ["-a", "node"], { encoding: "utf8" })
  .split("\n")
  .filter((path) => path !== "")
  .find((path) => {
    const [major = 0, minor = 0] = execFileSync(path, ["-p", "process.versions.node"], { encoding: "utf8" }).split(".").map(Number);
    return major < 22 || (major === 22 && minor < 18);
  });

describe.skipIf(oldNode === undefined)("an old Node", () => {
  const program = [oldNode as string];

  test("hands over to the one that the project pins, exit code included", async () => {
    expect(await tributary(["--version"], { program })).toMatchObject({ code: 0, stdout: "0.1.0\n" });
    expect(await tributary(["bogus"], { program })).toMatchObject({ code: 2, stderr: expect.stringContaining("USAGE") });
  });

  test("says what is needed where none is installed", async () => {
    const copy = join(folder, "elsewhere", "deploy", "bin");
    await cp(dirname(TRIBUTARY), copy, { recursive: true });
    let failure: { status?: number; stderr?: string } = {};
    try {
      execFileSync(oldNode as string, [join(copy, "tributary.mjs"), "up"], { encoding: "utf8", stdio: "pipe" });
    } catch (error) {
      failure = error as { status: number; stderr: string };
    }
    expect(failure.status).toBe(1);
    expect(failure.stderr).toMatch(/NODE_VERSION.*22\.18/s);
  });
});
