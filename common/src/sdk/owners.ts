/** Streams whose owners are remembered; that of the one used longest ago is forgotten first. */
const STREAMS_MAX = 4_096;

/** Where streams are served, as far as answers told. */
export class Owners {
  readonly #given: URL;
  readonly #byStream = new Map<string, string>();

  /** `given`: the server that the client was told to use. */
  constructor(given: string) {
    this.#given = new URL(given);
  }

  of(stream: string): string | undefined {
    const owner = this.#byStream.get(stream);
    if (owner === undefined) return undefined;
    this.#byStream.delete(stream);
    this.#byStream.set(stream, owner);
    return owner;
  }

  /** `named`: what the answer of the given server or of an owner said; null: it has the stream itself. */
  learn(stream: string, askedOwner: boolean, named: string | null): void {
    if (named === null) {
      if (!askedOwner) this.forget(stream);
      return;
    }
    const owner = this.#accept(named);
    this.forget(stream);
    if (owner === undefined) return;
    this.#byStream.set(stream, owner);
    if (this.#byStream.size <= STREAMS_MAX) return;
    const oldest = this.#byStream.keys().next();
    if (!oldest.done) this.#byStream.delete(oldest.value);
  }

  forget(stream: string): void {
    this.#byStream.delete(stream);
  }

  /** Only HTTP, and never unencrypted where the given server is not: the token goes along. */
  #accept(named: string): string | undefined {
    if (!URL.canParse(named)) return undefined;
    const { protocol, origin } = new URL(named);
    if (protocol !== "https:" && (protocol !== "http:" || this.#given.protocol === "https:")) return undefined;
    return origin === this.#given.origin ? undefined : origin;
  }
}
