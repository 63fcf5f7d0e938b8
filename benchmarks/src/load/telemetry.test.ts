import { describe, expect, it } from "vitest";
import { Telemetry } from "./telemetry.ts";

describe("Telemetry", () => {
  it("is JSON of about 150 bytes that varies, and the same for the same input", () => {
    const one = new Telemetry("device-0007");
    const two = new Telemetry("device-0007");
    const seen = new Set<string>();
    for (let seq = 0; seq < 5000; seq++) {
      const time = Date.UTC(2026, 10, 20) + seq * 37;
      one.write(seq, time);
      const text = Buffer.from(one.bytes).toString();
      const event = JSON.parse(text);
      expect(event).toMatchObject({ device: "device-0007", seq: 100_000_000 + seq, time: new Date(time).toISOString() });
      expect(event.temperature).toBeGreaterThanOrEqual(20);
      expect(event.temperature).toBeLessThan(41);
      seen.add(`${event.temperature} ${event.vibration} ${event.rpm}`);
      if (seq % 100 === 0) {
        two.write(seq, time);
        expect(two.bytes).toEqual(one.bytes);
      }
    }
    expect(one.bytes.length).toBeGreaterThan(140);
    expect(one.bytes.length).toBeLessThan(165);
    expect(seen.size).toBeGreaterThan(4000);
  });

  it("keeps its fields in place when the device's name is not ASCII", () => {
    const telemetry = new Telemetry("Gerät-ä");
    telemetry.write(5, 0);
    expect(JSON.parse(Buffer.from(telemetry.bytes).toString())).toMatchObject({ device: "Gerät-ä", seq: 100_000_005 });
  });
});
