/** How long to wait after a key before asking: by how fast the user types and answers come. */

const INTERVALS = 8;
const PAUSE = 1000; // A longer interval is a pause, and says nothing about the user's speed.
const SHARE = 1.25; // Most keys of a steady typist come within this many usual intervals.
const UNKNOWN = 40;
const MOST = 250;

function push(list: number[], value: number): void {
  list.push(value);
  if (list.length > INTERVALS) {
    list.shift();
  }
}

function median(list: readonly number[]): number {
  const sorted = [...list].sort((one, other) => one - other);
  return sorted[Math.floor((sorted.length - 1) / 2)] ?? 0;
}

/** One user's rhythm; all times are milliseconds of one clock. */
export class Rhythm {
  private readonly intervals: number[] = [];
  private readonly latencies: number[] = [];
  private last: number | undefined;

  key(now: number): void {
    if (this.last !== undefined && now - this.last < PAUSE) {
      push(this.intervals, now - this.last);
    }
    this.last = now;
  }

  answered(latency: number): void {
    push(this.latencies, latency);
  }

  /** The usual time to an answer; undefined before the first. */
  get latency(): number | undefined {
    return this.latencies.length > 0 ? median(this.latencies) : undefined;
  }

  /**
   * How long to wait from the last key on. Fast typists are asked for after a short rest, slow ones
   * after a longer one; an engine that takes long begins up to half of the rest earlier.
   *
   * @param setting milliseconds, or "auto".
   * @param spent what the editor itself has waited since the key.
   */
  wait(setting: number | "auto", spent = 0): number {
    if (setting !== "auto") {
      return Math.max(0, setting - spent);
    }
    if (this.intervals.length < 3) {
      return Math.max(0, UNKNOWN - spent);
    }
    const rest = Math.min(MOST, SHARE * median(this.intervals));
    return Math.max(0, Math.max(rest / 2, rest - (this.latency ?? 0)) - spent);
  }
}
