import { TributaryError } from "@tributary/common/errors";
import type { MetaChange, MetaEntry, MetaStore } from "@tributary/common/ports/meta-store";

interface Version {
  readonly value: Uint8Array | undefined;
  readonly revision: number;
}

interface MetaPast {
  readonly history: ReadonlyMap<string, readonly Version[]>;
  readonly revision: number;
}

interface Watch {
  readonly prefix: string;
  readonly onChange: (change: MetaChange) => void;
}

/** A MetaStore in memory that remembers every version, so that a faulty one can be built upon it. */
export class MemoryMetaStore implements MetaStore {
  readonly history: Map<string, Version[]> = new Map();
  readonly #watches = new Set<Watch>();
  #revision = 0;

  async get(key: string): Promise<MetaEntry | undefined> {
    return this.at(key, 0);
  }

  /** The key as it was `versionsBack` changes ago. */
  at(key: string, versionsBack: number): MetaEntry | undefined {
    const version = this.history.get(key)?.at(-1 - versionsBack);
    return version?.value && { key, value: version.value, revision: version.revision };
  }

  async create(key: string, value: Uint8Array): Promise<number> {
    if (this.at(key, 0)) throw new TributaryError("META_EXISTS", key);
    return this.#write(key, value);
  }

  async update(key: string, value: Uint8Array, revision: number): Promise<number> {
    if (this.at(key, 0)?.revision !== revision) throw new TributaryError("META_CONFLICT", key);
    return this.#write(key, value);
  }

  async delete(key: string, revision: number): Promise<void> {
    const entry = this.at(key, 0);
    if (!entry) return;
    if (entry.revision !== revision) throw new TributaryError("META_CONFLICT", key);
    this.#write(key, undefined);
  }

  async list(prefix: string): Promise<MetaEntry[]> {
    return [...this.history.keys()]
      .filter((key) => below(key, prefix))
      .sort()
      .flatMap((key) => this.at(key, 0) ?? []);
  }

  async watch(prefix: string, signal: AbortSignal, onChange: (change: MetaChange) => void): Promise<void> {
    if (signal.aborted) return;
    for (const entry of await this.list(prefix)) onChange(entry);
    const watch = { prefix, onChange };
    this.#watches.add(watch);
    await new Promise<void>((resolve) => signal.addEventListener("abort", () => resolve(), { once: true }));
    this.#watches.delete(watch);
  }

  async close(): Promise<void> {}

  /** What it holds now, for `restore`. */
  save(): MetaPast {
    return { history: new Map([...this.history].map(([key, versions]) => [key, [...versions]])), revision: this.#revision };
  }

  /** It is again as it was, and nobody is told. Revisions given since are given again. */
  restore({ history, revision }: MetaPast): void {
    this.history.clear();
    for (const [key, versions] of history) this.history.set(key, [...versions]);
    this.#revision = revision;
  }

  #write(key: string, value: Uint8Array | undefined): number {
    const revision = ++this.#revision;
    const versions = this.history.get(key) ?? [];
    this.history.set(key, versions);
    versions.push({ value, revision });
    for (const watch of this.#watches) if (below(key, watch.prefix)) watch.onChange({ key, value, revision });
    return revision;
  }
}

function below(key: string, prefix: string): boolean {
  return prefix === "" || key === prefix || key.startsWith(`${prefix}/`);
}
