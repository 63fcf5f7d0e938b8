/** Longest head or line of an answer; a server that sends more is broken. */
const TEXT_CHARS_MAX = 65_536;

/**
 * Cuts a byte stream into HTTP/1.1 answers and reports their status; bodies (of a length, or chunked) are passed over. Just enough for
 * answers to appends, at a fraction of an HTTP client's cost. Interim answers (1xx) are not reported.
 */
export class HttpAnswerReader {
  readonly #onAnswer: (status: number) => void;
  #text = "";
  #bodyLeft = 0;
  #chunked = false;
  #trailer = false;
  #status = 0;

  constructor(onAnswer: (status: number) => void) {
    this.#onAnswer = onAnswer;
  }

  /** A new connection. */
  reset(): void {
    this.#text = "";
    this.#bodyLeft = 0;
    this.#chunked = false;
    this.#trailer = false;
  }

  push(chunk: Buffer): void {
    this.#text += chunk.toString("latin1");
    while (this.#step());
    if (this.#text.length > TEXT_CHARS_MAX) throw new Error("the head of an answer is too long");
  }

  #step(): boolean {
    if (this.#bodyLeft > 0) {
      const passed = Math.min(this.#bodyLeft, this.#text.length);
      if (passed === 0) return false;
      this.#text = this.#text.slice(passed);
      this.#bodyLeft -= passed;
      if (this.#bodyLeft === 0 && !this.#chunked) this.#finish();
      return true;
    }
    if (this.#chunked) return this.#readChunkLine();
    const end = this.#text.indexOf("\r\n\r\n");
    if (end < 0) return false;
    const head = this.#text.slice(0, end);
    this.#text = this.#text.slice(end + 4);
    this.#status = Number(head.slice(9, 12));
    this.#chunked = /\r\ntransfer-encoding:[ \t]*chunked/i.test(head);
    this.#bodyLeft = Number(/\r\ncontent-length:[ \t]*(\d+)/i.exec(head)?.[1] ?? 0);
    if (this.#bodyLeft === 0 && !this.#chunked) this.#finish();
    return true;
  }

  #readChunkLine(): boolean {
    const end = this.#text.indexOf("\r\n");
    if (end < 0) return false;
    const line = this.#text.slice(0, end);
    this.#text = this.#text.slice(end + 2);
    if (this.#trailer) {
      if (line === "") {
        this.#trailer = false;
        this.#chunked = false;
        this.#finish();
      }
      return true;
    }
    const length = Number.parseInt(line, 16);
    // The chunk's own line end belongs to it.
    if (length > 0) this.#bodyLeft = length + 2;
    else this.#trailer = true;
    return true;
  }

  #finish(): void {
    if (this.#status >= 200) this.#onAnswer(this.#status);
  }
}
