#!/usr/bin/env node
// Prints the path of a nats-server that is new enough for Tributary: the one in NATS_SERVER, else the one in PATH, else the
// cached one, else one fetched from Debian sid through the machine's own apt mirror into the cache. Nothing outside the
// repository's node_modules/.cache changes. Plain JavaScript without dependencies: it runs on the system's Node 20.
import { execFileSync, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  accessSync,
  chmodSync,
  constants,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { delimiter, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const VERSION_MIN = [2, 15];
const PACKAGE = "nats-server";
const PINNED = { version: "2.15.1-1", sha256: { amd64: "31ef4ceaa84e8248d449e508472e3770c17c3695cb5cb0ee96e03912724ea884" } };
const KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg";
const CACHE = join(dirname(fileURLToPath(import.meta.url)), "..", "node_modules", ".cache", "nats-server");

const WAYS = `Ways to get one:
  - set NATS_SERVER to the path of a nats-server 2.15 or newer
  - install the package nats-server from Debian sid
  - go install github.com/nats-io/nats-server/v2@v2.15.1, and put it into PATH`;

class Missing extends Error {}

try {
  process.stdout.write(`${findServer()}\n`);
} catch (error) {
  if (!(error instanceof Missing)) throw error;
  process.stderr.write(`No nats-server ${VERSION_MIN.join(".")} or newer: ${error.message}\n${WAYS}\n`);
  process.exitCode = 1;
}

function findServer() {
  const named = process.env.NATS_SERVER;
  if (named) {
    const version = versionOf(named);
    if (!version) throw new Missing(`NATS_SERVER=${named} is not a nats-server that runs here.`);
    if (!isNewEnough(version)) throw new Missing(`NATS_SERVER=${named} is version ${version.join(".")}.`);
    return named;
  }
  for (const folder of (process.env.PATH ?? "").split(delimiter)) {
    const path = join(folder, PACKAGE);
    if (!folder || !isExecutable(path)) continue;
    const version = versionOf(path);
    if (version && isNewEnough(version)) return path;
    note(`${path} is ${version ? `version ${version.join(".")}, too old` : "not a nats-server that runs here"}; looking further.`);
  }
  const cached = join(CACHE, PACKAGE);
  if (isExecutable(cached) && isNewEnough(versionOf(cached) ?? [0])) return cached;
  fetchInto(cached);
  return cached;
}

function versionOf(path) {
  const { stdout, status } = spawnSync(path, ["--version"], { encoding: "utf8" });
  const match = status === 0 ? /v(\d+)\.(\d+)\.(\d+)/.exec(stdout) : null;
  return match ? match.slice(1).map(Number) : undefined;
}

function isNewEnough([major, minor = 0]) {
  return major > VERSION_MIN[0] || (major === VERSION_MIN[0] && minor >= VERSION_MIN[1]);
}

function isExecutable(path) {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

function fetchInto(target) {
  for (const tool of ["apt-get", "dpkg"]) {
    if (spawnSync(tool, ["--version"]).error)
      throw new Missing(`none in PATH or in the cache, and it cannot be fetched here: there is no ${tool}.`);
  }
  if (!isReadable(KEYRING))
    throw new Missing(`none in PATH or in the cache, and ${KEYRING} is missing, without which apt cannot check it.`);
  const architecture = execFileSync("dpkg", ["--print-architecture"], { encoding: "utf8" }).trim();
  const mirrors = aptMirrors();
  if (mirrors.length === 0) throw new Missing("none in PATH or in the cache, and this machine's apt sources name no mirror.");

  const failures = [];
  for (const mirror of mirrors) {
    const work = mkdtempSync(join(tmpdir(), "tributary-nats-"));
    try {
      note(`Fetching ${PACKAGE} ${PINNED.version} (${architecture}) from Debian sid at ${mirror} …`);
      const deb = download(work, mirror, architecture);
      checkPackage(deb, architecture);
      install(deb, work, target);
      return;
    } catch (error) {
      failures.push(
        `${mirror}: ${String(error.stderr || error.message)
          .trim()
          .split("\n")
          .slice(-3)
          .join(" ")}`,
      );
    } finally {
      rmSync(work, { recursive: true, force: true });
    }
  }
  throw new Missing(`none in PATH or in the cache, and fetching failed:\n  ${failures.join("\n  ")}`);
}

// apt with its own state, cache and list of sources: it needs no rights, and the system's apt does not notice.
function download(work, mirror, architecture) {
  const list = join(work, "sources.list");
  writeFileSync(list, `deb [arch=${architecture} signed-by=${KEYRING}] ${mirror} sid main\n`);
  for (const folder of ["state/lists/partial", "cache/archives/partial", "deb"]) mkdirSync(join(work, folder), { recursive: true });
  const options = {
    "Dir::State": join(work, "state"),
    "Dir::Cache": join(work, "cache"),
    "Dir::Etc::sourcelist": list,
    "Dir::Etc::sourceparts": "-",
    "Acquire::Languages": "none",
    "Acquire::Retries": "2",
    "Acquire::http::Timeout": "20",
    "Acquire::https::Timeout": "20",
    "APT::Update::Error-Mode": "any",
    // Root would drop to the user _apt, who may not write into our folder.
    ...(process.getuid?.() === 0 ? { "APT::Sandbox::User": "root" } : {}),
  };
  const flags = Object.entries(options).flatMap(([key, value]) => ["-o", `${key}=${value}`]);
  const apt = (...args) => execFileSync("apt-get", [...flags, "-qq", ...args], { cwd: join(work, "deb"), encoding: "utf8", stdio: "pipe" });
  apt("update");
  try {
    apt("download", `${PACKAGE}=${PINNED.version}`);
  } catch {
    apt("download", PACKAGE);
  }
  const deb = readdirSync(join(work, "deb")).find((file) => file.endsWith(".deb"));
  if (!deb) throw new Error("apt-get download left no package");
  return join(work, "deb", deb);
}

// apt has authenticated the file against the signed index; the pinned one is checked against our own sum as well.
function checkPackage(deb, architecture) {
  const version = execFileSync("dpkg-deb", ["--field", deb, "Version"], { encoding: "utf8" }).trim();
  if (version !== PINNED.version) {
    note(`The archive has ${PACKAGE} ${version} instead of the pinned ${PINNED.version}; taking it on apt's signature.`);
    return;
  }
  const expected = PINNED.sha256[architecture];
  const actual = createHash("sha256").update(readFileSync(deb)).digest("hex");
  if (expected && actual !== expected) throw new Error(`the package has sha256 ${actual} instead of ${expected}`);
}

function install(deb, work, target) {
  const root = join(work, "root");
  execFileSync("dpkg", ["-x", deb, root], { stdio: "pipe" });
  const binary = ["usr/sbin", "usr/bin"].map((folder) => join(root, folder, PACKAGE)).find(isExecutable);
  if (!binary) throw new Error("the package holds no nats-server");
  const version = versionOf(binary);
  if (!version || !isNewEnough(version))
    throw new Error(`the package holds version ${version ? version.join(".") : "that does not run here"}`);
  mkdirSync(dirname(target), { recursive: true });
  // Written beside and renamed: another process may be doing the same, or be using it.
  const part = `${target}.${process.pid}`;
  writeFileSync(part, readFileSync(binary));
  chmodSync(part, 0o755);
  renameSync(part, target);
}

/** URIs of binary sources that are no security archives, in the order of the machine's own lists. */
function aptMirrors() {
  const entries = [];
  const files = ["/etc/apt/sources.list"];
  try {
    for (const file of readdirSync("/etc/apt/sources.list.d").sort()) files.push(join("/etc/apt/sources.list.d", file));
  } catch {
    // No such folder: the one file may still be there.
  }
  for (const file of files) {
    if (!isReadable(file)) continue;
    const text = readFileSync(file, "utf8");
    if (file.endsWith(".sources")) entries.push(...deb822Entries(text));
    else if (file.endsWith(".list")) entries.push(...oneLineEntries(text));
  }
  const usable = entries.filter(
    ({ uri, suites }) => !/security/.test(uri) && !suites.every((s) => /security/.test(s)) && !uri.startsWith("cdrom:"),
  );
  // Debian mirrors end in /debian by convention: try those first, for third-party archives have no sid.
  const ranked = [...usable.filter(({ uri }) => /debian\/?$/.test(uri)), ...usable];
  return [...new Set(ranked.map(({ uri }) => uri))].slice(0, 4);
}

function deb822Entries(text) {
  const entries = [];
  for (const stanza of text.split(/\n\s*\n/)) {
    const fields = {};
    let field;
    for (const line of stanza.split("\n")) {
      if (line.startsWith("#")) continue;
      const match = /^([A-Za-z-]+):\s*(.*)$/.exec(line);
      if (match) {
        field = match[1].toLowerCase();
        fields[field] = match[2].trim();
      } else if (field && /^\s/.test(line)) fields[field] += ` ${line.trim()}`;
    }
    const words = (name) => (fields[name] ?? "").split(/\s+/).filter(Boolean);
    if (!words("types").includes("deb") || /^(no|false|0)$/i.test(fields.enabled ?? "")) continue;
    for (const uri of words("uris")) entries.push({ uri, suites: words("suites") });
  }
  return entries;
}

function oneLineEntries(text) {
  const entries = [];
  for (const line of text.split("\n")) {
    const match = /^\s*deb\s+(?:\[[^\]]*\]\s+)?(\S+)\s+(\S+)/.exec(line);
    if (match) entries.push({ uri: match[1], suites: [match[2]] });
  }
  return entries;
}

function isReadable(path) {
  try {
    accessSync(path, constants.R_OK);
    return true;
  } catch {
    return false;
  }
}

function note(text) {
  process.stderr.write(`${text}\n`);
}
