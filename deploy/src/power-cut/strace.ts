import { createReadStream } from "node:fs";
import { createInterface } from "node:readline";

/** One finished system call of a trace made with `strace -f -yy -ttt -xx`. */
export interface SystemCall {
  readonly name: string;
  /** Target of the file descriptor: a path, or "TCP:[local->remote]" for a socket. */
  readonly target: string;
  readonly fd: number;
  /** Data read or written. */
  readonly data: Buffer;
  /** Place in the trace: of its begin, and of its end. */
  readonly begin: number;
  readonly end: number;
  readonly result: number;
}

const WHOLE = /^(\d+)\s+[\d.]+ (\w+)\((.*)\)\s+= (-?\d+)/;
const UNFINISHED = /^(\d+)\s+[\d.]+ (\w+)\((.*) <unfinished \.\.\.>$/;
const RESUMED = /^(\d+)\s+[\d.]+ <\.\.\. (\w+) resumed>(.*)\)\s+= (-?\d+)/;
const DESCRIPTOR = /^(\d+)<((?:->|[^<>])*)>/;

export async function readTrace(path: string): Promise<SystemCall[]> {
  const calls: SystemCall[] = [];
  const pending = new Map<string, { name: string; text: string; begin: number }>();
  let line = 0;
  for await (const text of createInterface({ input: createReadStream(path) })) {
    line++;
    const whole = WHOLE.exec(text);
    if (whole) {
      add(calls, whole[2] as string, whole[3] as string, Number(whole[4]), line, line);
      continue;
    }
    const unfinished = UNFINISHED.exec(text);
    if (unfinished) {
      pending.set(unfinished[1] as string, { name: unfinished[2] as string, text: unfinished[3] as string, begin: line });
      continue;
    }
    const resumed = RESUMED.exec(text);
    const started = resumed && pending.get(resumed[1] as string);
    if (resumed && started) add(calls, started.name, started.text + resumed[3], Number(resumed[4]), started.begin, line);
  }
  return calls;
}

function add(calls: SystemCall[], name: string, text: string, result: number, begin: number, end: number): void {
  const descriptor = DESCRIPTOR.exec(text);
  if (!descriptor || result < 0) return;
  const parts = [...text.slice(descriptor[0].length).matchAll(/"((?:\\x[0-9a-f]{2})*)"/g)].map((m) =>
    Buffer.from((m[1] as string).replaceAll("\\x", ""), "hex"),
  );
  calls.push({
    name,
    fd: Number(descriptor[1]),
    target: decodeTarget(descriptor[2] as string),
    data: Buffer.concat(parts),
    begin,
    end,
    result,
  });
}

/** With -xx paths too are written in hexadecimal. */
function decodeTarget(text: string): string {
  return text.replace(/\\x([0-9a-f]{2})/g, (_, hex: string) => String.fromCharCode(Number.parseInt(hex, 16)));
}

export interface TraceJudgement {
  readonly acks: number;
  /**
   * PUBACKs for which the trace does not show, in this order: the read of their publish, a write to the edge log, an fsync of
   * it, and then their own write.
   */
  readonly early: number;
  readonly fsyncs: number;
}

/** Judges a trace of a gateway by MQTT publishes read, fsyncs below the folder, and PUBACKs written. */
export function judgeTrace(calls: readonly SystemCall[], mqttPort: number, edgeFolder: string): TraceJudgement {
  const fsyncs = calls.filter((call) => (call.name === "fsync" || call.name === "fdatasync") && call.target.startsWith(edgeFolder));
  const writes = calls.filter((call) => call.name.includes("write") && call.target.startsWith(edgeFolder));
  // For each fsync that ended, the latest write that it covers wholly.
  const covers = fsyncs.map((fsync) => ({ end: fsync.end, coveredFrom: writes.findLast((write) => write.end <= fsync.begin)?.begin ?? 0 }));
  const connections = new Map<string, { readRest: Buffer; writeRest: Buffer; publishedAt: Map<number, number> }>();
  let acks = 0;
  let early = 0;
  for (const call of [...calls].sort((a, b) => a.end - b.end)) {
    if (!call.target.includes(`:${mqttPort}->`) || call.data.length === 0) continue;
    const key = `${call.fd} ${call.target}`;
    let connection = connections.get(key);
    if (!connection) {
      connection = { readRest: Buffer.alloc(0), writeRest: Buffer.alloc(0), publishedAt: new Map() };
      connections.set(key, connection);
    }
    const reading = call.name.startsWith("read") || call.name.startsWith("recv");
    const data = call.data.subarray(0, call.result);
    const bytes = Buffer.concat([reading ? connection.readRest : connection.writeRest, data]);
    const rest = eachPacket(bytes, (type, packetId) => {
      if (reading && type === 3) connection.publishedAt.set(packetId, call.end);
      else if (!reading && type === 4) {
        acks++;
        const publishedAt = connection.publishedAt.get(packetId);
        const covered = publishedAt !== undefined && covers.some((cover) => cover.coveredFrom > publishedAt && cover.end < call.begin);
        if (!covered) early++;
      }
    });
    if (reading) connection.readRest = rest;
    else connection.writeRest = rest;
  }
  return { acks, early, fsyncs: fsyncs.length };
}

/** Reports type and packet id of each whole MQTT packet (of PUBLISH: at QoS 1 and 2); returns what is left over. */
function eachPacket(bytes: Buffer, report: (type: number, packetId: number) => void): Buffer {
  let at = 0;
  for (;;) {
    let [length, scale, head] = [0, 1, at + 1];
    for (;;) {
      const byte = bytes[head++];
      if (byte === undefined) return bytes.subarray(at);
      length += (byte & 127) * scale;
      scale *= 128;
      if (byte < 128) break;
    }
    if (head + length > bytes.length) return bytes.subarray(at);
    const first = bytes[at] as number;
    const type = first >> 4;
    if (type === 3 && (first & 6) !== 0) report(type, bytes.readUInt16BE(head + 2 + bytes.readUInt16BE(head)));
    else if (type === 4) report(type, bytes.readUInt16BE(head));
    at = head + length;
  }
}
