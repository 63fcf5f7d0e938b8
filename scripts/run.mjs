// Runs on whatever Node the system has: installs what is missing, then hands over to the Node that the project pins.
// `npm start` and `npm test` come through here. No dependencies.
import { spawn, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const pinnedNode = join(root, "node_modules", "node", "bin", "node");
const stamp = join(root, "node_modules", ".tributary-installed");

function fail(message) {
  console.error(`tributary: ${message}`);
  process.exit(1);
}

/** What an installation depends on: the lock file, the platform, and whether it has what only development needs. */
function wantedStamp(extent) {
  const lock = readFileSync(join(root, "package-lock.json"));
  return `${createHash("sha256").update(lock).digest("hex")} ${process.platform}-${process.arch} ${extent}\n`;
}

/** `extent`: "run" leaves out what only tests, benchmarks and scenarios need. */
function install(extent) {
  const wanted = wantedStamp(extent);
  const have = existsSync(stamp) && existsSync(pinnedNode) ? readFileSync(stamp, "utf8") : "";
  if (have === wanted || have === wantedStamp("all")) return;
  console.error("Installing packages (once) …");
  // npm sets variables for its scripts; a nested npm must not inherit those of the outer one.
  const env = Object.fromEntries(
    Object.entries(process.env).filter(([name]) => !/^npm_(lifecycle|package)_|^npm_config_local_prefix$/i.test(name)),
  );
  const npm = (...args) => {
    const program = process.platform === "win32" ? "npm.cmd" : "npm";
    const result = spawnSync(program, [...args, "--no-audit", "--no-fund", "--loglevel=error"], {
      cwd: root,
      env,
      stdio: ["ignore", 2, 2],
    });
    if (result.error) fail(`npm could not be started (${result.error.message}). Install npm 10 or newer and try again.`);
    if (result.status !== 0)
      fail(`'npm ${args[0]}' failed; see its messages above. Check the network and the npm registry setting, then try again.`);
  };
  // Not `npm ci`: it refuses a lock file without the packages of platforms that the registry at hand does not carry. The versions
  // are those of the lock file all the same, which --no-save leaves as it is.
  npm("install", "--no-save", "--ignore-scripts", ...(extent === "run" ? ["--omit=dev"] : []));
  // The runtimes fetch their binary in an install script; no other package needs one.
  npm("rebuild", "--ignore-scripts=false", "node", ...(extent === "run" ? [] : ["bun", "deno"]));
  if (!existsSync(pinnedNode)) {
    fail(
      "the pinned Node is missing after the installation: its install script did not run. Run 'npm rebuild node --ignore-scripts=false' and try again.",
    );
  }
  writeFileSync(stamp, wanted);
}

const commands = {
  start: (args) => [pinnedNode, ["deploy/bin/tributary.mjs", "up", ...args]],
  test(args) {
    const nats = spawnSync(pinnedNode, ["scripts/fetch-nats-server.mjs"], { cwd: root, stdio: ["ignore", "pipe", 2], encoding: "utf8" });
    if (nats.status !== 0) process.exit(1);
    process.env.NATS_SERVER = nats.stdout.trim();
    return [pinnedNode, ["node_modules/vitest/vitest.mjs", "run", ...args]];
  },
  scenario(args) {
    const nats = spawnSync(pinnedNode, ["scripts/fetch-nats-server.mjs"], {
      cwd: root,
      stdio: ["ignore", "pipe", "ignore"],
      encoding: "utf8",
    });
    if (nats.status === 0) process.env.NATS_SERVER = nats.stdout.trim();
    return [pinnedNode, ["deploy/src/scenarios/main.ts", ...args]];
  },
  cluster: (args) => [pinnedNode, ["deploy/src/local-cluster/main.ts", ...args]],
  simulate: (args) => [pinnedNode, ["--disable-warning=ExperimentalWarning", "deploy/src/simulation/main.ts", ...args]],
  bench: (args) => [pinnedNode, ["benchmarks/src/main.ts", ...args]],
};

const [name = "", ...args] = process.argv.slice(2);
if (!Object.hasOwn(commands, name)) fail(`unknown command '${name}'; there are ${Object.keys(commands).join(", ")}`);
install(name === "start" ? "run" : "all");
const [program, programArgs] = commands[name](args);
const child = spawn(program, programArgs, { cwd: root, stdio: "inherit" });
// The terminal sends Ctrl-C to the whole group; the child decides when to end. A signal to this process alone is passed on.
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) {
  process.on(signal, () => {
    if (signal !== "SIGINT" || !process.stdin.isTTY) child.kill(signal);
  });
}
child.on("exit", (code, signal) => process.exit(code ?? (signal === "SIGINT" ? 130 : 1)));
