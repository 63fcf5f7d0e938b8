import { assert } from "@tributary/common/assert";
import { hasCode, TributaryError } from "@tributary/common/errors";
import { type Block, decodeBlock } from "@tributary/common/format/block";
import type { Id } from "@tributary/common/names";
import type { ObjectStore } from "@tributary/common/ports/object-store";
import { rootHash } from "../container/frame-hash.ts";
import { generationOf } from "../container/generation.ts";
import { Lru } from "../container/lru.ts";
import type { Checkpoint, ObjectRef } from "../container/operations.ts";
import { ContainerState } from "../container/state.ts";
import { type Extent, lastAtOrBelow } from "../container/unflushed.ts";
import { applyFooter } from "./flush-object.ts";
import { generationPrefix, type ObjectKind, objectName, rootNames } from "./object-names.ts";
import { type Root, readRoot } from "./root-object.ts";
import { readSnapshot } from "./snapshot.ts";
import { type Footer, readFooter } from "./tier-footer.ts";
import { TierIndex } from "./tier-index.ts";
import { decodeFooter, OBJECT_KIND } from "./tier-object.ts";

const FOOTER_CACHE_BYTES = 16_777_216;
/** What decoded numbers take in memory for each stored byte of a footer, roughly. */
const FOOTER_EXPANSION = 12;
/** One request of the store fetches at least this much where the object has it: a round trip costs more than the bytes. */
const READ_AHEAD_BYTES = 1_048_576;
const FOOTERS_AT_ONCE = 8;

interface OpenFooter {
  readonly footer: Footer;
  /** Row of the first extent of each stream. */
  readonly firstRow: ReadonlyMap<Id, number>;
}

interface Loaded {
  readonly state: ContainerState;
  readonly index: TierIndex;
}

export interface OpenRoot {
  readonly root: Root;
  /** Stands in the first frame of the generation as the hash of the one before it. */
  readonly hash: string;
}

/** Reads what a container has in the tier. Whatever fails a check there is an error that names the object, never other data. */
export class TierReader {
  readonly #container: number;
  readonly #objects: ObjectStore;
  readonly #footers = new Lru<OpenFooter>(FOOTER_CACHE_BYTES);
  readonly #blocks: Lru<Block>;
  /** Fetches under way: readers that want the same bytes wait for one request. */
  readonly #roots = new Map<number, OpenRoot>();
  readonly #pending = new Map<string, Promise<unknown>>();

  constructor(container: number, objects: ObjectStore, blockCacheBytesMax: number) {
    this.#container = container;
    this.#objects = objects;
    this.#blocks = new Lru(blockCacheBytesMax);
  }

  /** State and index as a checkpoint has them. @throws STORE_CORRUPT */
  async load(checkpoint: Checkpoint): Promise<Loaded> {
    const { state, index } = await (checkpoint.snapshot ? this.#loadSnapshot(checkpoint.snapshot) : this.#loadBase(checkpoint));
    for (let at = 0; at < checkpoint.objects.length; at += FOOTERS_AT_ONCE) {
      const refs = checkpoint.objects.slice(at, at + FOOTERS_AT_ONCE);
      const footers = await Promise.all(refs.map((ref) => this.#footer(ref)));
      footers.forEach(({ footer }, i) => {
        const ref = refs[i] as ObjectRef;
        for (const stream of footer.deleted) index.delete(footer.streams[stream] as Id);
        // What contradicts the objects before it is damage of this one.
        index.add(
          ref,
          this.#reading(objectName(this.#container, "blocks", ref), () => applyFooter(state, footer)),
        );
      });
    }
    return { state, index };
  }

  /** The extent that holds the event at `chain` of a stream. @throws STORE_CORRUPT */
  async extent(ref: ObjectRef, streamId: Id, chain: number): Promise<Extent> {
    const { footer, firstRow } = await this.#footer(ref);
    const first = firstRow.get(streamId);
    const stream = first === undefined ? -1 : footer.extents.s[first];
    const { s, c } = footer.extents;
    let rows = 0;
    if (first !== undefined) while (s[first + rows] === stream) rows++;
    const row = (first ?? 0) + (rows > 0 ? lastAtOrBelow(rows, chain, (i) => c[(first ?? 0) + i] as number) : 0);
    const column = (name: keyof Footer["extents"]) => footer.extents[name][row] ?? -1;
    const from = column("c");
    if (rows === 0 || chain < from || chain >= from + column("m")) {
      throw this.#corrupt(ref, `it does not hold event ${chain} of stream ${streamId}`);
    }
    const block = await this.#block(ref, footer, column("b"));
    const slice = block.slices.at(column("i"));
    if (slice?.streamId !== streamId || (slice.kind === "events" ? slice.count - column("k") : 1) !== column("m")) {
      throw this.#corrupt(ref, "a block is not the one that its footer describes");
    }
    const segment = { generation: column("g"), epoch: column("e"), number: column("n") };
    return { chain: from, count: column("m"), segment, ordinal: column("o"), block, slice: column("i"), skip: column("k") };
  }

  /** From what a generation begins; undefined if it has not begun. @throws STORE_CORRUPT if it has, and its root is damaged */
  async root(generation: number): Promise<OpenRoot | undefined> {
    const known = this.#roots.get(generation);
    if (known) return known;
    const names = rootNames(this.#container, generation);
    let damage: unknown;
    for (const name of names) {
      try {
        const open = await this.#readRootTwice(name, generation);
        this.#roots.set(generation, open);
        return open;
      } catch (error) {
        if (hasCode(error, "OBJECT_NOT_FOUND")) break;
        if (!hasCode(error, "STORE_CORRUPT")) throw error;
        damage = error;
      }
    }
    if (damage === undefined) return undefined;
    // Whoever put it did not find it whole, and nobody has gone on from it: the next name is free for another one.
    const prefix = generationPrefix(this.#container, generation);
    const found = await this.#objects.list(prefix, { limit: names.length + 1 });
    if (found.some(({ name }) => !names.includes(name)) || names.every((name) => found.some((info) => info.name === name))) throw damage;
    return undefined;
  }

  async #readRootTwice(name: string, generation: number): Promise<OpenRoot> {
    try {
      return await this.#readRoot(name, generation);
    } catch (error) {
      if (!hasCode(error, "STORE_CORRUPT")) throw error;
      // Perhaps only on its way here.
      return this.#readRoot(name, generation);
    }
  }

  async #readRoot(name: string, generation: number): Promise<OpenRoot> {
    const bytes = await this.#objects.get(name);
    const record = decodeFooter(name, OBJECT_KIND.root, bytes);
    const root = this.#reading(name, () => {
      const read = readRoot(record);
      if (read.container !== this.#container || read.generation !== generation) throw new Error("it belongs elsewhere");
      if (generationOf(read.base.position.epoch) !== generation - 1) throw new Error("its base is of another generation");
      return read;
    });
    return { root, hash: rootHash(bytes) };
  }

  /** What the objects of a generation follow where they follow no snapshot. */
  async #loadBase({ position }: Checkpoint): Promise<Loaded> {
    const generation = generationOf(position.epoch);
    if (generation === 0) return { state: new ContainerState(), index: new TierIndex() };
    const open = await this.root(generation);
    if (!open) throw this.#corrupt(rootNames(this.#container, generation)[0] as string, "it is missing");
    const loaded = await this.load(open.root.base);
    loaded.state.raise(generation);
    return loaded;
  }

  /** Whether a snapshot is there and whole. */
  async hasSnapshot(ref: ObjectRef): Promise<boolean> {
    try {
      await this.#loadSnapshot(ref);
      return true;
    } catch (error) {
      if (hasCode(error, "STORE_CORRUPT")) return false;
      throw error;
    }
  }

  async #loadSnapshot(ref: ObjectRef): Promise<Loaded> {
    const name = objectName(this.#container, "snapshot", ref);
    const record = decodeFooter(name, OBJECT_KIND.snapshot, await this.#end("snapshot", ref));
    return this.#reading(name, () => {
      const snapshot = readSnapshot(record);
      if (snapshot.container !== this.#container || snapshot.position.seq !== ref.through) throw new Error("it belongs elsewhere");
      return snapshot;
    });
  }

  /** The footer of an object of which every block is whole: of one that no checkpoint names yet. @throws STORE_CORRUPT */
  async wholeFooter(ref: ObjectRef): Promise<Footer> {
    const { footer } = await this.#footer(ref);
    for (let block = 0; block * 2 < footer.blocks.length; block++) await this.#block(ref, footer, block);
    return footer;
  }

  /** @throws STORE_CORRUPT */
  async footer(ref: ObjectRef): Promise<Footer> {
    return (await this.#footer(ref)).footer;
  }

  #footer(ref: ObjectRef): Promise<OpenFooter> {
    const name = objectName(this.#container, "blocks", ref);
    const cached = this.#footers.get(name);
    if (cached) return Promise.resolve(cached);
    return this.#once(name, async () => {
      const record = decodeFooter(name, OBJECT_KIND.blocks, await this.#end("blocks", ref));
      const footer = this.#reading(name, () => {
        const read = readFooter(record);
        if (read.container !== this.#container || read.position.seq !== ref.through) throw new Error("it belongs elsewhere");
        return read;
      });
      const firstRow = new Map<Id, number>();
      footer.extents.s.forEach((stream, row) => {
        const id = footer.streams[stream] as Id;
        if (!firstRow.has(id)) firstRow.set(id, row);
      });
      const open = { footer, firstRow };
      this.#footers.put(name, open, ref.footerBytes * FOOTER_EXPANSION);
      return open;
    });
  }

  async #end(kind: ObjectKind, ref: ObjectRef): Promise<Uint8Array> {
    return this.#get(kind, ref, { offset: ref.bytes - ref.footerBytes, length: ref.footerBytes });
  }

  #block(ref: ObjectRef, footer: Footer, position: number): Promise<Block> {
    const name = objectName(this.#container, "blocks", ref);
    const cached = this.#blocks.get(`${name} ${position}`);
    if (cached) return Promise.resolve(cached);
    return this.#once(`${name} ${position}`, async () => {
      const offset = footer.blocks[position * 2];
      if (offset === undefined) throw this.#corrupt(ref, "an extent names no block");
      let behind = position;
      let end = offset;
      do {
        end = (footer.blocks[behind * 2] as number) + (footer.blocks[behind * 2 + 1] as number);
        behind++;
      } while (behind * 2 < footer.blocks.length && end - offset < READ_AHEAD_BYTES);
      const bytes = await this.#get("blocks", ref, { offset, length: end - offset });
      let wanted: Block | undefined;
      for (let i = position; i < behind; i++) {
        const at = (footer.blocks[i * 2] as number) - offset;
        const length = footer.blocks[i * 2 + 1] as number;
        // Copied, so that one cached block does not hold all of what was fetched with it.
        const block = this.#decode(ref, Uint8Array.from(bytes.subarray(at, at + length)), i === position);
        if (!block) break;
        this.#blocks.put(`${name} ${i}`, block, length);
        wanted ??= block;
      }
      assert(wanted !== undefined, "the block asked for was read");
      return wanted;
    });
  }

  #decode(ref: ObjectRef, bytes: Uint8Array, wanted: boolean): Block | undefined {
    try {
      return decodeBlock(bytes);
    } catch (error) {
      // A damaged block that was only read ahead is reported to whoever asks for it.
      if (!wanted) return undefined;
      throw hasCode(error, "BLOCK_CORRUPT") ? this.#corrupt(ref, error.message, error) : error;
    }
  }

  async #get(kind: ObjectKind, ref: ObjectRef, range: { offset: number; length: number }): Promise<Uint8Array> {
    let bytes: Uint8Array;
    try {
      bytes = await this.#objects.get(objectName(this.#container, kind, ref), range);
    } catch (error) {
      throw hasCode(error, "OBJECT_NOT_FOUND") ? this.#corrupt(ref, "it is missing", error) : error;
    }
    if (bytes.length !== range.length) throw this.#corrupt(ref, "it is shorter than it was");
    return bytes;
  }

  #reading<T>(name: string, read: () => T): T {
    try {
      return read();
    } catch (error) {
      throw this.#corrupt(name, error instanceof Error ? error.message : "malformed footer", error);
    }
  }

  #corrupt(where: ObjectRef | string, detail: string, cause?: unknown): TributaryError {
    const object = typeof where === "string" ? where : objectName(this.#container, "blocks", where);
    return new TributaryError("STORE_CORRUPT", `object ${object}: ${detail}`, { object }, { cause });
  }

  #once<T>(key: string, work: () => Promise<T>): Promise<T> {
    const pending = this.#pending.get(key) as Promise<T> | undefined;
    if (pending) return pending;
    const started = work().finally(() => this.#pending.delete(key));
    this.#pending.set(key, started);
    return started;
  }
}
