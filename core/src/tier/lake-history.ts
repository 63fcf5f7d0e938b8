import { hasCode } from "@tributary/common/errors";
import type { ObjectInfo, ObjectStore } from "@tributary/common/ports/object-store";
import type { WalPosition } from "../container/counting.ts";
import { epochBefore, generationOf } from "../container/generation.ts";
import type { Checkpoint, ObjectRef } from "../container/operations.ts";
import { objectName, objectPrefix, parseObjectName } from "./object-names.ts";
import { footerBytesOf, OBJECT_HEAD_BYTES, TRAILER_BYTES } from "./tier-object.ts";
import type { TierReader } from "./tier-reader.ts";

const PAGE = 1_000;

/** An object that is in the lake, whoever knows of it, with the last counting frame that it stands for. */
export interface FoundObject {
  readonly ref: ObjectRef;
  readonly position: WalPosition;
}

/** What objects of the lake say by themselves, without a log that names them (rules L2, L5). */
export class LakeHistory {
  readonly #container: number;
  readonly #objects: ObjectStore;
  readonly #tier: TierReader;

  constructor(container: number, objects: ObjectStore, tier: TierReader) {
    this.#container = container;
    this.#objects = objects;
    this.#tier = tier;
  }

  /**
   * Combined objects of the generation written by owner (epoch, attempt) or later ones, but only what comes behind `after`: the newest
   * first, as their owners wrote them. One that cannot be verified is left out: what a damaged object says proves nothing.
   */
  async *newestObjects(owner: Pick<ObjectRef, "epoch" | "attempt">, after: ObjectRef | undefined): AsyncGenerator<FoundObject> {
    const generation = generationOf(owner.epoch);
    const names = [objectName(this.#container, "blocks", { ...owner, through: 0 })];
    if (after && generationOf(after.epoch) === generation) names.push(objectName(this.#container, "blocks", after));
    const infos: ObjectInfo[] = [];
    for await (const info of this.#list("blocks", generation, names.sort().at(-1))) infos.push(info);
    for (const info of infos.reverse()) {
      // What is damaged only on its way here must not hide what is in the lake.
      const object = (await this.#open(generation, info)) ?? (await this.#open(generation, info));
      if (object) yield object;
    }
  }

  /**
   * A checkpoint from which the state at an object is read: it names the newest snapshot before it, and every object since. undefined
   * if one of them is missing or damaged.
   */
  async checkpointAt(head: FoundObject): Promise<Checkpoint | undefined> {
    const generation = generationOf(head.ref.epoch);
    const snapshots = new Map<string, ObjectRef>();
    for await (const info of this.#list("snapshot", generation)) {
      const named = parseObjectName(generation, info.name);
      if (named) snapshots.set(keyOf(named), { ...named, bytes: info.bytes, footerBytes: info.bytes - OBJECT_HEAD_BYTES });
    }
    const objects: ObjectRef[] = [];
    let snapshot: ObjectRef | undefined;
    try {
      for (let ref: ObjectRef | undefined = head.ref; ref && generationOf(ref.epoch) === generation; ) {
        // A snapshot is of the state behind the object that was written with it.
        const candidate = snapshots.get(keyOf(ref));
        // One that its owner did not find whole was never named by a checkpoint.
        if (candidate && (await this.#tier.hasSnapshot(candidate))) {
          snapshot = candidate;
          break;
        }
        objects.unshift(ref);
        ref = (await this.#tier.footer(ref)).previous;
      }
    } catch (error) {
      if (hasCode(error, "STORE_CORRUPT")) return undefined;
      throw error;
    }
    return { position: head.position, snapshot, objects };
  }

  /** The newest state that the lake alone gives, of one generation. */
  async newest(generation: number): Promise<Checkpoint | undefined> {
    for await (const object of this.newestObjects({ epoch: epochBefore(generation), attempt: 0 }, undefined)) {
      const checkpoint = await this.checkpointAt(object);
      if (checkpoint) return checkpoint;
    }
    return undefined;
  }

  async *#list(kind: "blocks" | "snapshot", generation: number, from?: string): AsyncGenerator<ObjectInfo> {
    const prefix = objectPrefix(this.#container, kind, generation);
    for (let after = from; ; ) {
      const page = await this.#objects.list(prefix, { limit: PAGE, ...(after === undefined ? {} : { after }) });
      yield* page;
      const last = page.at(-1);
      if (!last || page.length < PAGE) return;
      after = last.name;
    }
  }

  async #open(generation: number, info: ObjectInfo): Promise<FoundObject | undefined> {
    const named = parseObjectName(generation, info.name);
    if (!named || info.bytes < TRAILER_BYTES) return undefined;
    const trailer = await this.#objects.get(info.name, { offset: info.bytes - TRAILER_BYTES, length: TRAILER_BYTES });
    const footerBytes = footerBytesOf(trailer);
    if (footerBytes === undefined || footerBytes > info.bytes) return undefined;
    const ref = { ...named, bytes: info.bytes, footerBytes };
    try {
      return { ref, position: (await this.#tier.wholeFooter(ref)).position };
    } catch (error) {
      if (hasCode(error, "STORE_CORRUPT")) return undefined;
      throw error;
    }
  }
}

function keyOf({ epoch, attempt, through }: Pick<ObjectRef, "epoch" | "attempt" | "through">): string {
  return `${epoch} ${attempt} ${through}`;
}
