/** Buckets for each power of two; 64 keep the error of a percentile under 1.6 %. */
const SUB_BUCKETS = 64;
const SUB_BITS = 6;
const MICROSECONDS_MAX = 2 ** 31 - 1;

export interface LatencySummary {
  readonly p50: number;
  readonly p99: number;
  readonly p999: number;
  readonly max: number;
  readonly mean: number;
}

/**
 * Latencies in logarithmic buckets with linear ones inside (the layout of HdrHistogram): constant memory and a few ns for each record,
 * so that measuring millions of acknowledgements does not disturb them.
 */
export class LatencyHistogram {
  readonly #counts = new Float64Array((31 - SUB_BITS) * SUB_BUCKETS + 2 * SUB_BUCKETS);
  #count = 0;
  #sumUs = 0;
  #maxUs = 0;

  get count(): number {
    return this.#count;
  }

  record(latencyMs: number): void {
    const us = Math.min(Math.max(Math.round(latencyMs * 1000), 0), MICROSECONDS_MAX);
    const shift = us < 2 * SUB_BUCKETS ? 0 : 31 - SUB_BITS - Math.clz32(us);
    const bucket = shift * SUB_BUCKETS + (us >>> shift);
    this.#counts[bucket] = (this.#counts[bucket] as number) + 1;
    this.#count++;
    this.#sumUs += us;
    if (us > this.#maxUs) this.#maxUs = us;
  }

  /** Upper edge of the bucket that holds the quantile, in ms; 0 without records. */
  quantileMs(quantile: number): number {
    const rank = Math.max(1, Math.ceil(quantile * this.#count));
    let seen = 0;
    for (let bucket = 0; bucket < this.#counts.length; bucket++) {
      seen += this.#counts[bucket] as number;
      if (seen >= rank) return Math.min(upperEdge(bucket), this.#maxUs) / 1000;
    }
    return 0;
  }

  summary(): LatencySummary {
    return {
      p50: this.quantileMs(0.5),
      p99: this.quantileMs(0.99),
      p999: this.quantileMs(0.999),
      max: this.#maxUs / 1000,
      mean: this.#count === 0 ? 0 : Math.round(this.#sumUs / this.#count) / 1000,
    };
  }
}

function upperEdge(bucket: number): number {
  if (bucket < 2 * SUB_BUCKETS) return bucket;
  const shift = Math.floor(bucket / SUB_BUCKETS) - 1;
  return (bucket - shift * SUB_BUCKETS + 1) * 2 ** shift - 1;
}
