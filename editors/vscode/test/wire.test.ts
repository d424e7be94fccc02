import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { readDraftAt, readItems } from "../src/items.ts";
import { readModels } from "../src/cli.ts";
import type { Origin } from "../src/stale.ts";
import { readDraft, readEditAnswer, readRefinement, readStatus } from "../src/wire.ts";

const range = { start: { line: 1, character: 2 }, end: { line: 1, character: 2 } };
const about = { token: "t", textDocument: { uri: "file:///a", version: 3 }, sequence: 1 };
const draft = { ...about, range, committed: "ab", draft: "c", spans: [], final: false };
const asked: Origin = {
  uri: "file:///a",
  version: 3,
  token: "t",
  line: 1,
  column: 4,
  before: "xxab",
  after: ")",
  lineCount: 5,
  changedElsewhere: false,
  sequence: 0,
};
const none = () => undefined;

test("whatever a message holds, reading it throws nothing", () => {
  fc.assert(
    fc.property(fc.anything(), (value) => {
      readDraft(value);
      readRefinement(value);
      readStatus(value);
      readEditAnswer(value, "file:///a");
      readItems(value, asked, none);
      readItems([value], asked, none);
    }),
  );
});

test("a message that lacks a field, or has it of another kind, is none", () => {
  assert.ok(readDraft(draft));
  for (const name of Object.keys(draft).filter((one) => one !== "spans" && one !== "final")) {
    assert.equal(readDraft({ ...draft, [name]: [] }), undefined, name);
  }
  const refinement = { ...about, range, text: "x", spans: [{ start: 0, end: 1, confidence: 0.5 }] };
  assert.equal(readRefinement(refinement)?.spans.length, 1);
  assert.equal(
    readRefinement({ ...refinement, spans: [{ start: 2, end: 1 }, 7] })?.spans.length,
    0,
  );
  assert.equal(readStatus({ state: "dreaming" }), undefined);
  const status = readStatus({ state: "ready", lastMs: "soon", documentsOff: ["a", 1] });
  assert.equal(status?.lastMs, undefined);
  assert.deepEqual(status?.documentsOff, ["a"]);
});

test("a draft begins at the cursor, without what stands before it", () => {
  const read = readDraft({ ...draft, committed: "abcd", draft: "e\r\nf" });
  assert.ok(read);
  const at = readDraftAt(read, asked);
  assert.equal(at, undefined, "its range ends before the cursor");
  const whole = readDraft({
    ...draft,
    range: { start: { line: 1, character: 2 }, end: { line: 1, character: 5 } },
    committed: "abcd",
    draft: "e\r\nf",
  });
  assert.ok(whole);
  const found = readDraftAt(whole, asked);
  assert.deepEqual(found, { committed: "cd", undecided: "e\nf", replaced: 1 });
  assert.equal(readDraftAt({ ...whole, committed: "zz" }, asked), undefined);
});

test("items that do not fit are left out, and a text is offered once", () => {
  const here = { start: { line: 1, character: 4 }, end: { line: 1, character: 5 } };
  const item = (insertText: unknown, at: unknown = here) => ({ insertText, range: at });
  const command = { command: "dlm.accepted", title: "", arguments: [{ id: "7", kind: "full" }] };
  const found = readItems(
    [
      { ...item("cd)"), command },
      item("cd)"),
      item(7),
      item("zz", { start: { line: 0, character: 0 }, end: { line: 0, character: 0 } }),
      item("zz", { start: { line: 1, character: 0 }, end: { line: 1, character: 4 } }),
      item("e", { start: { line: 1, character: 4 }, end: { line: 1, character: 99 } }),
      item("abc", { start: { line: 1, character: 2 }, end: { line: 1, character: 4 } }),
    ],
    asked,
    none,
  );
  assert.deepEqual(
    found.map((one) => [one.text, one.replaced, one.id]),
    [
      ["cd)", 1, "7"],
      ["c", 0, undefined],
    ],
  );
});

test("an item that knows what was typed since begins with that", () => {
  const later = { start: { line: 1, character: 6 }, end: { line: 1, character: 6 } };
  const [item] = readItems([{ insertText: "e", range: later }], asked, () => "cd");
  assert.deepEqual([item?.text, item?.lead, item?.replaced], ["cde", 2, 0]);
});

test("an edit is read in either form, and only of its document", () => {
  const edit = { range, newText: "x" };
  const changes = { edit: { changes: { "file:///a": [edit], "file:///b": [edit] } } };
  assert.equal(readEditAnswer(changes, "file:///a").edits.length, 1);
  const documentChanges = [{ textDocument: { uri: "file:///a" }, edits: [edit, { range: 1 }] }];
  assert.equal(readEditAnswer({ edit: { documentChanges } }, "file:///a").edits[0]?.text, "x");
  assert.equal(readEditAnswer({ edit: null, reason: "no" }, "file:///a").reason, "no");
});

test("the list of models is read as far as it is one", () => {
  const models = [{ name: "nano", title: "t", state: "bundled", default: true }, { name: 1 }];
  assert.deepEqual(readModels(JSON.stringify({ models })), [
    { name: "nano", title: "t", state: "bundled", isDefault: true },
  ]);
  assert.deepEqual(readModels("{}"), []);
});
