import { assert } from "@tributary/common/assert";
import { TributaryError } from "@tributary/common/errors";
import { joined, type ObjectData } from "@tributary/common/object-data";
import type { ObjectInfo, ObjectStore } from "@tributary/common/ports/object-store";
import type { SimEnvironment } from "../environment.ts";
import type { Outcome, SimProcess } from "../process.ts";
import { flipBit } from "./sim-log.ts";

const NAME_PATTERN = /^[A-Za-z0-9._-]+(\/[A-Za-z0-9._-]+)*$/;
const NAME_CHARS_MAX = 1024;

/** The objects, as they are stored. */
export class ObjectShelf {
  readonly objects: Map<string, Uint8Array> = new Map();
  /** Told of each object as it was really stored. */
  onStored: (name: string, data: Uint8Array) => void = () => {};
  onDeleted: (name: string) => void = () => {};
  /** Told of each object for which there was no room. */
  onRefused: (name: string) => void = () => {};
  /** No room for anything new. */
  full = false;
}

export interface ObjectBehaviour {
  readonly putMs: readonly [number, number];
  readonly getMs: readonly [number, number];
  readonly slow: number;
  readonly slowMs: readonly [number, number];
  readonly unknownLanded: number;
  readonly unknownLost: number;
  readonly unknownLate: number;
  readonly lateMs: readonly [number, number];
  readonly unreachable: number;
  /** A put stores other bytes than it was given, or not all of them. */
  readonly putDamages: number;
  /** A read gives bad bytes, once. */
  readonly getFlips: number;
}

export const QUIET_OBJECTS: ObjectBehaviour = {
  putMs: [0, 0],
  getMs: [0, 0],
  slow: 0,
  slowMs: [0, 0],
  unknownLanded: 0,
  unknownLost: 0,
  unknownLate: 0,
  lateMs: [0, 0],
  unreachable: 0,
  putDamages: 0,
  getFlips: 0,
};

/** A process's handle on the object store. */
export class SimObjectStore implements ObjectStore {
  readonly #shelf: ObjectShelf;
  readonly #process: SimProcess;
  readonly #environment: SimEnvironment;
  readonly #behaviour: ObjectBehaviour;

  constructor(shelf: ObjectShelf, process: SimProcess, environment: SimEnvironment, behaviour: ObjectBehaviour) {
    this.#shelf = shelf;
    this.#process = process;
    this.#environment = environment;
    this.#behaviour = behaviour;
  }

  async put(name: string, data: ObjectData): Promise<void> {
    checkName(name);
    const { dice, faults, scheduler } = this.#environment;
    const { putMs, unknownLanded, unknownLost, unknownLate, lateMs, putDamages } = this.#behaviour;
    const site = `object put of ${this.#process.name}`;
    const given = joined(data);
    const store = (): Outcome<undefined> => {
      assert(Buffer.compare(joined(data), given) === 0, "the bytes of an object do not change while it is stored");
      if (this.#shelf.objects.has(name)) return { error: new TributaryError("OBJECT_EXISTS", `${name} exists`) };
      if (this.#shelf.full) {
        this.#shelf.onRefused(name);
        return { error: new TributaryError("STORAGE_FULL", "simulated: the store is full") };
      }
      let stored = given;
      if (faults.strikes("object stored damaged", site, putDamages)) {
        stored =
          dice.float(`${site} how`) < 0.3 ? given.slice(0, Math.floor(given.length * dice.float(`${site} cut`))) : new Uint8Array(given);
        if (stored.length === given.length) flipBit(stored, dice.float(`${site} bit`));
      }
      this.#shelf.objects.set(name, stored);
      this.#shelf.onStored(name, stored);
      return { value: undefined };
    };
    const unknown: Outcome<undefined> = { error: new TributaryError("LOG_RESULT_UNKNOWN", "simulated: no answer") };
    return this.#call(site, putMs, () => {
      if (faults.strikes("object put unknown, landed", site, unknownLanded)) {
        store();
        return unknown;
      }
      if (faults.strikes("object put unknown, lost", site, unknownLost)) return unknown;
      if (faults.strikes("object put unknown, lands later", site, unknownLate)) {
        scheduler.schedule(dice.between(`${site} late`, ...lateMs), undefined, () => void store());
        return unknown;
      }
      return store();
    });
  }

  async get(name: string, range?: { offset: number; length: number }, into?: Uint8Array): Promise<Uint8Array> {
    checkName(name);
    const { dice, faults } = this.#environment;
    const site = `object get of ${this.#process.name}`;
    return this.#call(site, this.#behaviour.getMs, () => {
      const object = this.#shelf.objects.get(name);
      if (!object) return { error: new TributaryError("OBJECT_NOT_FOUND", `there is no ${name}`) };
      let part: Uint8Array = object.slice(range?.offset ?? 0, range ? range.offset + range.length : undefined);
      if (into && into.length >= part.length) {
        into.set(part);
        part = into.subarray(0, part.length);
      }
      if (faults.strikes("object read flips a bit", site, this.#behaviour.getFlips)) flipBit(part, dice.float(`${site} bit`));
      return { value: part };
    });
  }

  async head(name: string): Promise<ObjectInfo | undefined> {
    checkName(name);
    return this.#call(`object head of ${this.#process.name}`, this.#behaviour.getMs, () => {
      const object = this.#shelf.objects.get(name);
      return { value: object && { name, bytes: object.length } };
    });
  }

  async list(prefix: string, options: { after?: string; limit: number }): Promise<ObjectInfo[]> {
    return this.#call(`object list of ${this.#process.name}`, this.#behaviour.getMs, () => {
      const { after = "", limit } = options;
      const names = [...this.#shelf.objects.keys()].filter((name) => name.startsWith(prefix) && name > after);
      return {
        value: names
          .sort()
          .slice(0, limit)
          .map((name) => ({ name, bytes: (this.#shelf.objects.get(name) as Uint8Array).length })),
      };
    });
  }

  async delete(name: string): Promise<void> {
    checkName(name);
    return this.#call(`object delete of ${this.#process.name}`, this.#behaviour.putMs, () => {
      if (this.#shelf.objects.delete(name)) this.#shelf.onDeleted(name);
      return { value: undefined };
    });
  }

  async close(): Promise<void> {}

  #call<T>(site: string, takesMs: readonly [number, number], arrive: () => Outcome<T>): Promise<T> {
    const { dice, faults } = this.#environment;
    let tookMs = dice.between(`${site} time`, ...takesMs);
    if (faults.strikes("object store slow", site, this.#behaviour.slow)) tookMs += dice.between(`${site} slow`, ...this.#behaviour.slowMs);
    return this.#process.call(tookMs * 0.7, tookMs * 0.3, () =>
      faults.strikes("object store unreachable", site, this.#behaviour.unreachable)
        ? { error: new TributaryError("BUS_UNREACHABLE", "simulated: the object store cannot be reached") }
        : arrive(),
    );
  }
}

/** @throws INVALID_NAME */
function checkName(name: string): void {
  const valid = name.length <= NAME_CHARS_MAX && NAME_PATTERN.test(name) && !name.split("/").some((part) => part === "." || part === "..");
  if (!valid) throw new TributaryError("INVALID_NAME", `'${name.slice(0, 140)}' is not a valid object name`);
}
