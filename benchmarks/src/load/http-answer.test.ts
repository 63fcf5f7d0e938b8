import fc from "fast-check";
import { expect, it } from "vitest";
import { HttpAnswerReader } from "./http-answer.ts";

const ANSWERS: readonly [status: number, text: string][] = [
  [204, "HTTP/1.1 204 No Content\r\nStream-Next-Offset: 7\r\nConnection: keep-alive\r\n\r\n"],
  [200, "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"],
  [200, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"],
  [503, 'HTTP/1.1 503 Service Unavailable\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{"a":\r\nA;x=y\r\n1234567\r\n}\r\n0\r\n\r\n'],
  [413, "HTTP/1.1 413 Payload Too Large\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nSome-Trailer: x\r\n\r\n"],
];

it("finds every answer, however the stream is cut", () => {
  fc.assert(
    fc.property(fc.array(fc.constantFrom(...ANSWERS), { maxLength: 6 }), fc.array(fc.nat(600), { maxLength: 12 }), (answers, cuts) => {
      // An interim answer is none.
      const text = ["HTTP/1.1 100 Continue\r\n\r\n", ...answers.map(([, answer]) => answer)].join("");
      const seen: number[] = [];
      const reader = new HttpAnswerReader((status) => seen.push(status));
      const at = [0, ...cuts.map((cut) => cut % (text.length + 1)).sort((a, b) => a - b), text.length];
      for (let i = 1; i < at.length; i++) reader.push(Buffer.from(text.slice(at[i - 1], at[i])));
      expect(seen).toEqual(answers.map(([status]) => status));
    }),
  );
});
