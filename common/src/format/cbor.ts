import { Decoder, Encoder } from "cbor-x";

// Plain CBOR (RFC 8949): no record extension, byte strings without a tag, maps as objects.
const encoder = new Encoder({ useRecords: false, tagUint8Array: false, mapsAsObjects: true, variableMapSize: true });
const decoder = new Decoder({ useRecords: false, mapsAsObjects: true });

export function encodeCbor(value: unknown): Uint8Array {
  // cbor-x hands out views of a shared buffer: copy before anything else can be encoded.
  return Uint8Array.from(encoder.encode(value));
}

/** @throws whatever cbor-x throws for malformed input; callers wrap it in their own code */
export function decodeCbor(bytes: Uint8Array): unknown {
  return decoder.decode(bytes);
}
