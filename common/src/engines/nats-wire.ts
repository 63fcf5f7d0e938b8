import { type ErrorDetails, isErrorCode, TributaryError } from "../errors.ts";
import { decodeCbor, encodeCbor } from "../format/cbor.ts";

/**
 * How the NATS bus writes messages.
 *
 *   request       the payload as it is, with a reply subject
 *   large request an empty message with the header Tributary-Bytes (length of the payload). The server answers `grant`, and the
 *                 payload follows in parts to the granted subject: a queue group would scatter the parts among its members.
 *   part          u32 index | bytes
 *   reply         u8 kind | body
 *                   0 answer   the handler's bytes
 *                   1 error    CBOR { code, message, details }
 *                   2 grant    UTF-8 subject for the parts of the request
 *                   3 part     u32 index | u32 bytes of the whole | bytes; put together they are a reply of kind 0 or 1
 *   publication   the payload as it is; a large one in messages with the header Tributary-Part: "id index bytesOfTheWhole"
 *
 * Integers are big-endian.
 */
export const HEADER_BYTES = "Tributary-Bytes";
export const HEADER_PART = "Tributary-Part";

/** Room for subject, reply subject and headers beside the bytes of a message. */
export const MESSAGE_OVERHEAD_BYTES = 1_024;

const REPLY_KIND = { answer: 0, error: 1, grant: 2, part: 3 } as const;
export const REPLY_PART_HEADER_BYTES = 9;
const REQUEST_PART_HEADER_BYTES = 4;

export function encodeAnswer(body: Uint8Array): Uint8Array {
  return prefixed(REPLY_KIND.answer, body);
}

export function encodeError(error: TributaryError): Uint8Array {
  return prefixed(REPLY_KIND.error, encodeCbor({ code: error.code, message: error.message, details: error.details }));
}

export function encodeGrant(subject: string): Uint8Array {
  return prefixed(REPLY_KIND.grant, new TextEncoder().encode(subject));
}

function prefixed(kind: number, body: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(1 + body.length);
  bytes[0] = kind;
  bytes.set(body, 1);
  return bytes;
}

export function encodeReplyPart(index: number, totalBytes: number, part: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(REPLY_PART_HEADER_BYTES + part.length);
  const view = new DataView(bytes.buffer);
  view.setUint8(0, REPLY_KIND.part);
  view.setUint32(1, index);
  view.setUint32(5, totalBytes);
  bytes.set(part, REPLY_PART_HEADER_BYTES);
  return bytes;
}

export function encodeRequestPart(index: number, part: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(REQUEST_PART_HEADER_BYTES + part.length);
  new DataView(bytes.buffer).setUint32(0, index);
  bytes.set(part, REQUEST_PART_HEADER_BYTES);
  return bytes;
}

export type Reply =
  | { readonly kind: "answer"; readonly body: Uint8Array }
  | { readonly kind: "error"; readonly error: TributaryError }
  | { readonly kind: "grant"; readonly subject: string }
  | { readonly kind: "part"; readonly index: number; readonly totalBytes: number; readonly part: Uint8Array };

/** undefined for what is no reply of this protocol. */
export function decodeReply(data: Uint8Array): Reply | undefined {
  const body = data.subarray(1);
  switch (data[0]) {
    case REPLY_KIND.answer:
      return { kind: "answer", body };
    case REPLY_KIND.error:
      return { kind: "error", error: decodeError(body) };
    case REPLY_KIND.grant:
      return { kind: "grant", subject: new TextDecoder().decode(body) };
    case REPLY_KIND.part: {
      if (data.length < REPLY_PART_HEADER_BYTES) return undefined;
      const view = new DataView(data.buffer, data.byteOffset);
      const part = data.subarray(REPLY_PART_HEADER_BYTES);
      return { kind: "part", index: view.getUint32(1), totalBytes: view.getUint32(5), part };
    }
    default:
      return undefined;
  }
}

function decodeError(body: Uint8Array): TributaryError {
  try {
    const { code, message, details } = decodeCbor(body) as { code?: unknown; message?: unknown; details?: unknown };
    // A newer peer may know codes that this version does not.
    if (isErrorCode(code)) return new TributaryError(code, String(message), plainDetails(details));
    return new TributaryError("INTERNAL", `${String(code)}: ${String(message)}`);
  } catch (cause) {
    return new TributaryError("INTERNAL", "the answer holds an error that cannot be decoded", {}, { cause });
  }
}

function plainDetails(details: unknown): ErrorDetails {
  if (typeof details !== "object" || details === null) return {};
  const plain = Object.entries(details).filter(([, value]) => ["string", "number", "boolean"].includes(typeof value));
  return Object.fromEntries(plain) as ErrorDetails;
}

interface RequestPart {
  readonly index: number;
  readonly part: Uint8Array;
}

export function decodeRequestPart(data: Uint8Array): RequestPart | undefined {
  if (data.length < REQUEST_PART_HEADER_BYTES) return undefined;
  return { index: new DataView(data.buffer, data.byteOffset).getUint32(0), part: data.subarray(REQUEST_PART_HEADER_BYTES) };
}

interface PublicationPart {
  readonly id: string;
  readonly index: number;
  readonly totalBytes: number;
}

export function decodePartHeader(text: string): PublicationPart | undefined {
  const match = /^(\S+) (\d{1,9}) (\d{1,9})$/.exec(text);
  return match ? { id: match[1] ?? "", index: Number(match[2]), totalBytes: Number(match[3]) } : undefined;
}
