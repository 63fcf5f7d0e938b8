import { type EnvelopeRecord, TributaryClient } from "@tributary/common/sdk/client";

/** Answer of a request as the tests judge it. */
export interface Answer {
  readonly status: number;
  readonly headers: Headers;
  readonly body: string;
  /** Code of a problem document; "" for anything else. */
  readonly code: string;
}

export async function http(method: string, url: string, init: { headers?: Record<string, string>; body?: BodyInit } = {}): Promise<Answer> {
  const response = await fetch(url, { method, ...init });
  const body = await response.text();
  const problem = response.headers.get("content-type") === "application/problem+json";
  const { code = "", hint = "" } = problem ? (JSON.parse(body) as { code?: string; hint?: string }) : {};
  if (problem && hint === "") throw new Error(`the error ${code} says nothing about what to do`);
  return { status: response.status, headers: response.headers, body, code };
}

/** Appends one event of plain bytes. */
export function append(server: string, stream: string, body: BodyInit, headers: Record<string, string> = {}): Promise<Answer> {
  return http("POST", `${server}/v1/stream/${stream}`, { headers: { "Content-Type": "application/octet-stream", ...headers }, body });
}

/** Everything in a stream, by the envelope read. */
export async function readAll(server: string, stream: string): Promise<EnvelopeRecord[]> {
  const [scope, name] = stream.split("/") as [string, string];
  const records: EnvelopeRecord[] = [];
  for await (const page of new TributaryClient({ server }).readPages({ scope, stream: name }, { offset: "-1" })) {
    records.push(...page.records);
  }
  return records;
}

/** Payloads of all events in a stream. */
export async function readPayloads(server: string, stream: string): Promise<string[]> {
  return (await readAll(server, stream)).filter((r) => r.kind === "event").map((r) => Buffer.from(r.data).toString());
}
