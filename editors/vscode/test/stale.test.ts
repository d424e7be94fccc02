import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { aboutAnother, mayContinue, restOf, verdict, type Now, type Origin } from "../src/stale.ts";

function origin(before: string, after: string, lineCount = 3): Origin {
  return {
    uri: "file:///a.py",
    version: 4,
    token: "t",
    line: 1,
    column: before.length,
    before,
    after,
    lineCount,
    changedElsewhere: false,
    sequence: 0,
  };
}

/** The text after `typed` was typed at the place, and `after` became `rest`. */
function after(asked: Origin, typed: string, rest = asked.after): Now {
  const lines = (asked.before + typed).split("\n");
  const column = lines[lines.length - 1]?.length ?? 0;
  lines.push((lines.pop() ?? "") + rest);
  const line = asked.line + lines.length - 1;
  return { uri: asked.uri, line, column, lineCount: asked.lineCount + lines.length - 1, lines };
}

const word = fc.stringMatching(/^[a-z(){}"' é😀]{0,8}$/);

test("what was typed at the place is found again, whatever it is", () => {
  const typed = fc.array(word, { maxLength: 4 }).map((lines) => lines.join("\n"));
  fc.assert(
    fc.property(word, word, typed, (before, rest, text) => {
      const asked = origin(before, rest);
      assert.deepEqual(verdict(asked, after(asked, text)), { fits: true, typed: text, passed: 0 });
    }),
  );
});

test("a change before the place makes it stale", () => {
  fc.assert(
    fc.property(word, word, word, (before, rest, other) => {
      fc.pre(other !== before && other.length === before.length);
      const asked = origin(before, rest);
      const now = { ...after(asked, ""), lines: [other + rest] };
      assert.equal(verdict(asked, now).fits, false);
    }),
  );
});

test("text after the cursor may be typed over, and closing brackets may be put there", () => {
  const asked = origin("print(", ")");
  assert.deepEqual(verdict(asked, after(asked, "x)", "")), { fits: true, typed: "x)", passed: 1 });
  const plain = origin("print", "");
  assert.deepEqual(verdict(plain, after(plain, "(", ")")), { fits: true, typed: "(", passed: -1 });
  const foreign = verdict(plain, after(plain, "(", "x"));
  assert.equal(foreign.fits, false);
});

test("each way to leave the place has its reason", () => {
  const asked = origin("  a", "b");
  const now = after(asked, "");
  const reason = (changed: Partial<Now>, by: Origin = asked) => {
    const found = verdict(by, { ...now, ...changed });
    return found.fits ? "" : found.reason;
  };
  assert.match(reason({ uri: "file:///b.py" }), /another document/);
  assert.match(reason({ line: 0 }), /left the place/);
  assert.match(reason({ column: 1 }), /left the place/);
  assert.match(reason({ lineCount: 9 }), /lines were added/);
  assert.match(reason({ lines: ["  bb"] }), /before the cursor/);
  assert.match(reason({ lines: ["  ac"] }), /after the cursor/);
  assert.match(reason({}, { ...asked, changedElsewhere: true }), /elsewhere/);
});

test("messages about something else, and late ones, are known by their reason", () => {
  const asked = { ...origin("a", ""), sequence: 3 };
  const about = { token: "t", uri: asked.uri, version: 4, sequence: 4 };
  assert.equal(aboutAnother(asked, about), undefined);
  assert.match(aboutAnother(asked, { ...about, token: "u" }) ?? "", /request/);
  assert.match(aboutAnother(asked, { ...about, uri: "x" }) ?? "", /document/);
  assert.match(aboutAnother(asked, { ...about, version: 5 }) ?? "", /version/);
  assert.match(aboutAnother(asked, { ...about, version: null }) ?? "", /version/);
  assert.match(aboutAnother(asked, { ...about, sequence: 3 }) ?? "", /late/);
});

test("typing through a text leaves its rest, and nothing else does", () => {
  fc.assert(
    fc.property(fc.string(), fc.string(), (typed, rest) => {
      assert.equal(restOf(typed + rest, typed), rest);
      const other = restOf(rest, typed);
      assert.equal(other !== undefined, rest.startsWith(typed));
      assert.equal(mayContinue(rest, typed), rest.startsWith(typed) || typed.startsWith(rest));
    }),
  );
});
