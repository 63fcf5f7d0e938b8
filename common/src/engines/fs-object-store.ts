import type { Dirent, Stats } from "node:fs";
import { type FileHandle, link, lstat, mkdir, open, opendir, rm, rmdir, unlink } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { TributaryError } from "../errors.ts";
import { bytesToHex } from "../names.ts";
import { type ObjectData, partsOf } from "../object-data.ts";
import type { ObjectInfo, ObjectStore } from "../ports/object-store.ts";
import { type Random, systemRandom } from "../random.ts";
import { createFolderSync, fsErrorCode, isNoSpace } from "./fs-durability.ts";

/**
 * An ObjectStore in a folder: each object is a file of its name, so that history can be read with any tool. As on every file
 * system, a name cannot be an object and the folder of others at once; the second one is refused.
 *
 * put = write a temporary file, fsync it, link it under its name (which fails if the name is taken: put if absent without a
 * race), fsync the folder. A crash in between leaves a temporary file, which the next open by the same user removes.
 */

const NAME_PATTERN = /^[A-Za-z0-9._-]+(\/[A-Za-z0-9._-]+)*$/;
const PART_PATTERN = /^[A-Za-z0-9._-]+$/;
const NAME_CHARS_MAX = 1024;
/** What file systems take. */
const PART_CHARS_MAX = 255;
/** No name holds a "~". */
const TEMPORARY_FOLDER = "~tmp";
/** Folders remembered as durable; then forgotten and synced again when next used. */
const FOLDERS_KNOWN_MAX = 10_000;
/** A put tries again when a delete removed the folder, empty by then, under its hands. */
const PUT_ATTEMPTS_MAX = 8;
/** Of one call; systems take 1,024 parts at least on Linux. */
const PARTS_A_WRITE_MAX = 512;
const WRITE_BYTES_MAX = 16_777_216;

/**
 * `user` (A-Z a-z 0-9 _ -) tells several processes apart that use the folder at once.
 * @throws CONFIG_INVALID when the folder cannot be used
 */
export async function openFsObjectStore(
  root: string,
  options: { readonly random?: Random; readonly user?: string } = {},
): Promise<ObjectStore> {
  const temporary = options.user === undefined ? TEMPORARY_FOLDER : `${TEMPORARY_FOLDER}-${options.user}`;
  const store = new FsObjectStore(resolve(root), temporary, options.random ?? systemRandom);
  try {
    await store.open();
  } catch (error) {
    throw new TributaryError("CONFIG_INVALID", `the folder ${root} cannot be used: ${String(error)}`, { path: root }, { cause: error });
  }
  return store;
}

class FsObjectStore implements ObjectStore {
  readonly #root: string;
  readonly #temporary: string;
  readonly #random: Random;
  /** Folders whose own names are durable. */
  readonly #durable = new Set<string>();
  #closed = false;

  constructor(root: string, temporaryFolder: string, random: Random) {
    this.#root = root;
    this.#temporary = join(root, temporaryFolder);
    this.#random = random;
  }

  async open(): Promise<void> {
    createFolderSync(this.#root);
    await rm(this.#temporary, { recursive: true, force: true });
    await mkdir(this.#temporary);
  }

  put(name: string, data: ObjectData): Promise<void> {
    return reached(() => this.#put(name, data));
  }

  get(name: string, range?: { offset: number; length: number }, into?: Uint8Array): Promise<Uint8Array> {
    return reached(() => this.#get(name, range, into));
  }

  head(name: string): Promise<ObjectInfo | undefined> {
    return reached(async () => {
      const stats = await found(lstat(this.#pathOf(name)));
      if (!stats) await this.#assertThere();
      return stats?.isFile() ? { name, bytes: stats.size } : undefined;
    });
  }

  list(prefix: string, { after = "", limit }: { after?: string; limit: number }): Promise<ObjectInfo[]> {
    return reached(async () => {
      this.#assertOpen();
      const objects: ObjectInfo[] = [];
      for await (const object of this.#walk("", { prefix, after, limit })) {
        if (objects.push(object) >= limit) break;
      }
      await this.#assertThere();
      return objects;
    });
  }

  delete(name: string): Promise<void> {
    return reached(() => this.#delete(name));
  }

  async close(): Promise<void> {
    this.#closed = true;
  }

  async #put(name: string, data: ObjectData): Promise<void> {
    const path = this.#pathOf(name);
    const taken = await found(lstat(path));
    if (taken) return this.#refuse(name, path, taken);
    const temporary = join(this.#temporary, bytesToHex(this.#random.bytes(16)));
    try {
      await writeDurably(temporary, data);
      await this.#publish(name, temporary, path);
    } finally {
      // If this fails too, the next open removes it.
      await unlink(temporary).catch(() => undefined);
    }
  }

  async #get(name: string, range?: { offset: number; length: number }, into?: Uint8Array): Promise<Uint8Array> {
    const file = await found(open(this.#pathOf(name), "r"));
    if (!file) {
      await this.#assertThere();
      throw notFound(name);
    }
    try {
      const stats = await file.stat();
      if (!stats.isFile()) throw notFound(name);
      const from = Math.min(range?.offset ?? 0, stats.size);
      const length = Math.min(range?.length ?? stats.size, stats.size - from);
      return await readWhole(file, from, into && into.length >= length ? into.subarray(0, length) : new Uint8Array(length));
    } finally {
      await file.close();
    }
  }

  async #delete(name: string): Promise<void> {
    const path = this.#pathOf(name);
    const stats = await found(lstat(path));
    if (!stats) await this.#assertThere();
    if (!stats?.isFile()) return;
    await found(unlink(path));
    let folder = dirname(path);
    await found(syncFolder(folder));
    // Empty folders go too, or listing would slow down with everything that ever was.
    for (; folder !== this.#root; folder = dirname(folder)) {
      this.#durable.delete(folder);
      try {
        await rmdir(folder);
      } catch {
        return;
      }
    }
  }

  /** Gives a finished temporary file its name, durably. */
  async #publish(name: string, temporary: string, path: string): Promise<void> {
    for (let attempt = 1; ; attempt++) {
      try {
        await this.#createFolder(dirname(path));
        await link(temporary, path);
        break;
      } catch (error) {
        const code = fsErrorCode(error);
        if (code === "EEXIST") return this.#refuse(name, path, await found(lstat(path)));
        if (code !== "ENOENT" && code !== "ENOTDIR") throw uncertain(name, error);
        for (let folder = dirname(path); folder !== this.#root; folder = dirname(folder)) this.#durable.delete(folder);
        if (code === "ENOTDIR") throw new TributaryError("INVALID_REQUEST", `a part of ${name} is an object`, { name }, { cause: error });
        if (attempt >= PUT_ATTEMPTS_MAX) throw new TributaryError("OVERLOADED", `the folders of ${name} keep being removed`, { name });
      }
    }
    try {
      await syncFolder(dirname(path));
    } catch (error) {
      throw uncertain(name, error);
    }
  }

  /** The name is taken. By then it is durable, for whoever hears that it exists will build on it. */
  async #refuse(name: string, path: string, stats: Stats | undefined): Promise<never> {
    if (stats && !stats.isFile()) throw new TributaryError("INVALID_REQUEST", `${name} is a folder of other objects`, { name });
    await this.#createFolder(dirname(path));
    await syncFolder(dirname(path));
    throw new TributaryError("OBJECT_EXISTS", `an object ${name} exists`, { name });
  }

  /** Creates a folder and those above it and makes their names durable, also when somebody else has just created them. */
  async #createFolder(folder: string): Promise<void> {
    if (folder === this.#root || this.#durable.has(folder)) return;
    const parent = dirname(folder);
    await this.#createFolder(parent);
    try {
      await mkdir(folder);
    } catch (error) {
      if (fsErrorCode(error) !== "EEXIST") throw error;
      // A file is in the way: the caller's ENOTDIR.
    }
    await syncFolder(parent);
    if (this.#durable.size >= FOLDERS_KNOWN_MAX) this.#durable.clear();
    this.#durable.add(folder);
  }

  /** Objects below a folder ("" or "a/b/") in order of name. Memory is bounded by `limit` entries for each level. */
  async *#walk(folder: string, query: { prefix: string; after: string; limit: number }): AsyncGenerator<ObjectInfo> {
    const { prefix, after, limit } = query;
    let passed = "";
    for (;;) {
      const page = await this.#entries(folder, passed, query);
      for (const name of page) {
        passed = name;
        if (name.endsWith("/")) yield* this.#walk(name, query);
        else if (name > after && name.startsWith(prefix)) {
          const stats = await found(lstat(join(this.#root, name)));
          if (stats) yield { name, bytes: stats.size };
        }
      }
      if (page.length < limit) return;
    }
  }

  /** The first `limit` names of a folder behind `passed` that can matter, in order; folders end in "/", which is where they sort. */
  async #entries(
    folder: string,
    passed: string,
    { prefix, after, limit }: { prefix: string; after: string; limit: number },
  ): Promise<string[]> {
    const directory = await found(opendir(join(this.#root, folder)));
    if (!directory) return [];
    let names: string[] = [];
    for await (const entry of directory) {
      const name = nameOf(folder, entry);
      if (name === undefined || name <= passed || !mayMatter(name, prefix, after)) continue;
      names.push(name);
      if (names.length >= limit * 2 + 64) names = names.sort().slice(0, limit);
    }
    return names.sort().slice(0, limit);
  }

  #pathOf(name: string): string {
    this.#assertOpen();
    const parts = name.split("/");
    const isValid =
      name.length <= NAME_CHARS_MAX &&
      NAME_PATTERN.test(name) &&
      parts.every((part) => part !== "." && part !== ".." && part.length <= PART_CHARS_MAX);
    if (!isValid) throw new TributaryError("INVALID_NAME", `'${name.slice(0, 140)}' is not a valid object name`);
    return join(this.#root, name);
  }

  /** A folder that was removed, or is not mounted any more, must not pass for a store that holds nothing. */
  async #assertThere(): Promise<void> {
    if (!(await found(lstat(this.#temporary)))) {
      throw new TributaryError("STORE_UNREACHABLE", `the folder ${this.#root} is no longer the store that was opened`, {
        path: this.#root,
      });
    }
  }

  #assertOpen(): void {
    if (this.#closed) throw new TributaryError("SHUTTING_DOWN", "the object store is closed");
  }
}

/** undefined for what is no object and no folder of objects. */
function nameOf(folder: string, entry: Dirent): string | undefined {
  if (!PART_PATTERN.test(entry.name)) return undefined;
  if (entry.isDirectory()) return `${folder}${entry.name}/`;
  return entry.isFile() ? folder + entry.name : undefined;
}

function mayMatter(name: string, prefix: string, after: string): boolean {
  if (!name.endsWith("/")) return name > after && name.startsWith(prefix);
  const holdsPrefix = name.startsWith(prefix) || prefix.startsWith(name);
  return holdsPrefix && (name > after || after.startsWith(name));
}

async function writeDurably(path: string, data: ObjectData): Promise<void> {
  try {
    const file = await open(path, "wx");
    try {
      await writeParts(file, partsOf(data));
      await file.sync();
    } finally {
      await file.close();
    }
  } catch (error) {
    // Nothing has its name yet.
    if (!isNoSpace(error)) throw error;
    throw new TributaryError("STORAGE_FULL", `no space left for ${path}`, { path }, { cause: error });
  }
}

async function writeParts(file: FileHandle, parts: readonly Uint8Array[]): Promise<void> {
  for (let next = 0; next < parts.length; ) {
    const batch: Uint8Array[] = [];
    for (let bytes = 0; next < parts.length && batch.length < PARTS_A_WRITE_MAX && bytes < WRITE_BYTES_MAX; next++) {
      const part = parts[next] as Uint8Array;
      batch.push(part);
      bytes += part.length;
    }
    await writeAll(file, batch);
  }
}

/** A write may take less than it was given. */
async function writeAll(file: FileHandle, batch: Uint8Array[]): Promise<void> {
  for (;;) {
    let { bytesWritten } = await file.writev(batch);
    while (batch[0] && bytesWritten >= batch[0].length) bytesWritten -= (batch.shift() as Uint8Array).length;
    if (!batch[0]) return;
    batch[0] = batch[0].subarray(bytesWritten);
  }
}

async function readWhole(file: FileHandle, offset: number, into: Uint8Array): Promise<Uint8Array> {
  let done = 0;
  while (done < into.length) {
    const { bytesRead } = await file.read(into, done, into.length - done, offset + done);
    if (bytesRead === 0) break;
    done += bytesRead;
  }
  return done === into.length ? into : into.slice(0, done);
}

async function syncFolder(path: string): Promise<void> {
  const folder = await open(path, "r");
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
}

/** What the system refuses is none of our doing, and may be mended while we run: @throws STORE_UNREACHABLE for it */
async function reached<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (fsErrorCode(error) === undefined) throw error;
    throw new TributaryError("STORE_UNREACHABLE", String(error), {}, { cause: error });
  }
}

/** undefined where there is nothing of the name. */
async function found<T>(promise: Promise<T>): Promise<T | undefined> {
  try {
    return await promise;
  } catch (error) {
    const code = fsErrorCode(error);
    if (code === "ENOENT" || code === "ENOTDIR") return undefined;
    throw error;
  }
}

function notFound(name: string): TributaryError {
  return new TributaryError("OBJECT_NOT_FOUND", `no object ${name}`, { name });
}

function uncertain(name: string, error: unknown): TributaryError {
  if (isNoSpace(error)) return new TributaryError("STORAGE_FULL", `no space left for the name ${name}`, { name }, { cause: error });
  return new TributaryError("LOG_RESULT_UNKNOWN", `${name} may be stored: ${String(error)}`, { name }, { cause: error });
}
