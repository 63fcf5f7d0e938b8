/** Where the digits of each field begin. */
type FieldOffsets = Readonly<Record<"seq" | "time" | "temperature" | "humidity" | "pressure" | "vibration" | "rpm", number>>;

/**
 * JSON telemetry of one device, about 150 bytes: a counter, the time, slowly moving values with noise. Every field has a fixed
 * width, so that an event is made by writing some digits over the last one: cheap enough that the generator does not measure itself.
 * The same device, seq and time always give the same bytes.
 */
export class Telemetry {
  /** The event that `write` made last. */
  readonly bytes: Uint8Array;
  readonly #salt: number;
  readonly #at: FieldOffsets;

  constructor(device: string) {
    const seq = `{"device":${JSON.stringify(device)},"seq":`;
    const time = `${seq}100000000,"time":"`;
    const temperature = `${time}2026-11-20T00:00:00.000Z","temperature":`;
    const humidity = `${temperature}20.00,"humidity":`;
    const pressure = `${humidity}40.0,"pressure":`;
    const vibration = `${pressure}1013.2,"vibration":0.`;
    const rpm = `${vibration}0200,"rpm":`;
    this.bytes = new TextEncoder().encode(`${rpm}1480}`);
    this.#at = {
      seq: Buffer.byteLength(seq),
      time: Buffer.byteLength(time),
      temperature: Buffer.byteLength(temperature),
      humidity: Buffer.byteLength(humidity),
      pressure: Buffer.byteLength(pressure),
      vibration: Buffer.byteLength(vibration),
      rpm: Buffer.byteLength(rpm),
    };
    this.#salt = [...this.bytes.subarray(0, seq.length)].reduce((hash, byte) => Math.imul(hash ^ byte, 16_777_619) >>> 0, 2_166_136_261);
  }

  /** Seq up to 899,999,999. */
  write(seq: number, timeMs: number): void {
    const { bytes } = this;
    const at = this.#at;
    const noise = Math.imul(seq ^ this.#salt, 2_654_435_761) >>> 0;
    writeDigits(bytes, at.seq, 9, 100_000_000 + seq);
    bytes.set(isoTime(timeMs), at.time);
    const temperature = 2000 + wave(seq + this.#salt, 4000) + (noise & 7);
    writeDigits(bytes, at.temperature, 2, Math.floor(temperature / 100));
    writeDigits(bytes, at.temperature + 3, 2, temperature % 100);
    const humidity = 400 + wave(seq * 3 + this.#salt, 2000) / 10 + ((noise >> 3) & 3);
    writeDigits(bytes, at.humidity, 2, Math.floor(humidity / 10));
    writeDigits(bytes, at.humidity + 3, 1, Math.floor(humidity) % 10);
    const pressure = 10_000 + Math.floor(wave(seq + this.#salt, 10_000) / 50) + ((noise >> 5) & 3);
    writeDigits(bytes, at.pressure, 4, Math.floor(pressure / 10));
    writeDigits(bytes, at.pressure + 5, 1, pressure % 10);
    writeDigits(bytes, at.vibration, 4, 150 + ((noise >> 7) & 127));
    writeDigits(bytes, at.rpm, 4, 1440 + ((noise >> 14) & 63));
  }
}

/** Rises from 0 to half the period and falls back. */
function wave(x: number, period: number): number {
  const phase = x % period;
  return phase < period / 2 ? phase : period - phase;
}

function writeDigits(out: Uint8Array, at: number, width: number, value: number): void {
  let rest = value;
  for (let i = at + width - 1; i >= at; i--) {
    const next = Math.floor(rest / 10);
    out[i] = 48 + rest - next * 10;
    rest = next;
  }
}

let isoMs = Number.NaN;
let isoBytes: Uint8Array = new Uint8Array(0);

/** Most events of a burst share their millisecond. */
function isoTime(timeMs: number): Uint8Array {
  if (timeMs !== isoMs) {
    isoBytes = new TextEncoder().encode(new Date(timeMs).toISOString());
    isoMs = timeMs;
  }
  return isoBytes;
}
