import { execFile } from "node:child_process";
import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { environmentName, SETTING_NAMES } from "@tributary/common/config";
import { findNatsServer } from "@tributary/common/testing/nats-server";
import * as apps from "kubernetes-models/apps/v1";
import * as policy from "kubernetes-models/policy/v1";
import * as core from "kubernetes-models/v1";
import { describe, expect, test } from "vitest";
import { parse, parseAllDocuments } from "yaml";

const run = promisify(execFile);
const REPOSITORY = fileURLToPath(new URL("../../../", import.meta.url));
const DEPLOY = join(REPOSITORY, "deploy");
const KINDS: Readonly<Record<string, object>> = { v1: core, "apps/v1": apps, "policy/v1": policy };
const IN_CI = process.env["CI"] === "true";

interface Manifest {
  readonly apiVersion: string;
  readonly kind: string;
}

type Model = new (data: object) => { validate(): void };

async function manifestsIn(file: string): Promise<Manifest[]> {
  const text = await readFile(join(DEPLOY, "kubernetes", file), "utf8");
  return parseAllDocuments(text).map((document) => {
    expect(document.errors).toEqual([]);
    return document.toJS() as Manifest;
  });
}

function validate(manifest: Manifest): void {
  const model = (KINDS[manifest.apiVersion] as Record<string, Model> | undefined)?.[manifest.kind];
  if (!model) throw new Error(`${manifest.apiVersion} ${manifest.kind} is not known`);
  new model(manifest).validate();
}

/** Names of settings that a text sets must be settings. */
function expectKnownSettings(text: string): void {
  const known = new Set(SETTING_NAMES.map(environmentName));
  const named = [...text.matchAll(/\b(TRIBUTARY_(?:CORE|EDGE|NATS)_[A-Z_]+)\b/g)].map((match) => match[1] as string);
  expect(named.filter((name) => !known.has(name))).toEqual([]);
}

async function isThere(program: string): Promise<boolean> {
  return run(program, ["--version"]).then(
    () => true,
    () => false,
  );
}

const [compose, systemd] = await Promise.all(["docker-compose", "systemd-analyze"].map(isThere));

describe("Kubernetes manifests", () => {
  test.each(["core.yaml", "nats.yaml"])("%s fits the schemas, and sets only what can be set", async (file) => {
    const manifests = await manifestsIn(file);
    expect(manifests.length).toBeGreaterThan(2);
    for (const manifest of manifests) expect(() => validate(manifest)).not.toThrow();
    expectKnownSettings(await readFile(join(DEPLOY, "kubernetes", file), "utf8"));
  });

  test("the check sees a wrong field", async () => {
    const [service] = await manifestsIn("core.yaml");
    expect(() => validate({ ...service, spec: { ports: [{ port: "http" }] } } as unknown as Manifest)).toThrow();
  });
});

describe("Compose file", () => {
  test("sets only what can be set, and names a file that is there", async () => {
    const text = await readFile(join(DEPLOY, "compose", "compose.yaml"), "utf8");
    expectKnownSettings(text);
    const { services } = parse(text, { merge: true }) as { services: Record<string, { command: string[] }> };
    expect(Object.keys(services)).toHaveLength(7);
    await readFile(join(DEPLOY, "container", "Dockerfile"), "utf8");
  });

  // Debian's docker-compose brings the schema; .ci/run installs it.
  test.skipIf(!compose && !IN_CI)("fits the schema", async () => {
    const env = { ...process.env, TRIBUTARY_TOKEN: "secret" };
    await run("docker-compose", ["-f", join(DEPLOY, "compose", "compose.yaml"), "config", "-q"], { env });
  });
});

describe("systemd units", () => {
  test.skipIf(!systemd && !IN_CI)("pass systemd-analyze verify", async () => {
    const folder = await mkdtemp(join(tmpdir(), "tributary-units-"));
    try {
      const units = await readdir(join(DEPLOY, "systemd"));
      for (const unit of units) {
        const text = await readFile(join(DEPLOY, "systemd", unit), "utf8");
        // As if this folder were the installation.
        await writeFile(join(folder, unit), text.replaceAll("/opt/tributary/", REPOSITORY));
      }
      const { stderr } = await run("systemd-analyze", ["verify", "--man=no", ...units.map((unit) => join(folder, unit))]);
      expect(stderr.split("\n").filter((line) => line.includes(folder))).toEqual([]);
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  });
});

test("the nats-server of the Compose file takes its configuration", async () => {
  await run(await findNatsServer(), ["-t", "-c", join(DEPLOY, "compose", "nats.conf")]);
});
