import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { Rhythm } from "../src/rhythm.ts";

function typed(intervals: readonly number[], latencies: readonly number[] = []): Rhythm {
  const rhythm = new Rhythm();
  let now = 0;
  rhythm.key(now);
  for (const interval of intervals) {
    rhythm.key((now += interval));
  }
  for (const latency of latencies) {
    rhythm.answered(latency);
  }
  return rhythm;
}

test("a delay in numbers is kept, less what the editor has waited", () => {
  assert.equal(typed([]).wait(100, 50), 50);
  assert.equal(typed([]).wait(20, 50), 0);
});

test("the delay follows the typing and the latency, within its bounds", () => {
  const steady = typed([100, 100, 100, 100]).wait("auto");
  assert.equal(steady, 125);
  assert.ok(typed([60, 60, 60, 60]).wait("auto") < steady);
  assert.ok(typed([100, 100, 100, 100], [500]).wait("auto") < steady);
  const times = fc.array(fc.double({ min: 0, max: 5000, noNaN: true }), { maxLength: 20 });
  fc.assert(
    fc.property(times, times, fc.nat(100), (intervals, latencies, spent) => {
      const wait = typed(intervals, latencies).wait("auto", spent);
      assert.ok(wait >= 0 && wait <= 250);
    }),
  );
});

test("a pause says nothing about the typing, and the latency is the usual one", () => {
  assert.equal(typed([100, 100, 100, 9000]).wait("auto"), 125);
  assert.equal(typed([], [100, 900, 110]).latency, 110);
  assert.equal(typed([]).latency, undefined);
});
