/** Gives each name a number in the order in which they come: columns hold the number, the name is stored once. */
export class Numbering {
  readonly #numbers = new Map<string, number>();

  of(name: string): number {
    const known = this.#numbers.get(name);
    if (known !== undefined) return known;
    this.#numbers.set(name, this.#numbers.size);
    return this.#numbers.size - 1;
  }

  names(): string[] {
    return [...this.#numbers.keys()];
  }
}
