import type { TributaryError } from "@tributary/common/errors";
import type { AckTarget } from "./ingest.ts";

interface Waiting {
  readonly resolve: () => void;
  readonly reject: (error: TributaryError) => void;
}

/** Turns answers to tokens into promises, for callers that are not counted in hundred thousands a second. */
export class PromisedAnswers implements AckTarget {
  readonly #waiting = new Map<number, Waiting>();
  #nextToken = 1;

  /** A token, and the promise of its answer. */
  expect(): { readonly token: number; readonly answered: Promise<void> } {
    const token = this.#nextToken++;
    const answered = new Promise<void>((resolve, reject) => this.#waiting.set(token, { resolve, reject }));
    return { token, answered };
  }

  /** Nothing was accepted with the token: its promise is never settled. */
  forget(token: number): void {
    this.#waiting.delete(token);
  }

  committed(token: number): void {
    this.#take(token)?.resolve();
  }

  failed(token: number, error: TributaryError): void {
    this.#take(token)?.reject(error);
  }

  flush(): void {}

  #take(token: number): Waiting | undefined {
    const waiting = this.#waiting.get(token);
    this.#waiting.delete(token);
    return waiting;
  }
}
