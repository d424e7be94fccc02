/** Reads the server's answers and drafts: what would be inserted at the place that was asked about. */

import { plain, type Origin } from "./stale.ts";
import { readArea, type Draft, type Point } from "./wire.ts";

export interface Item {
  /** What would stand from the place that was asked about on. */
  readonly text: string;
  /** How much right of the cursor it replaces, in UTF-16 units. */
  readonly replaced: number;
  /** What tells the server that it was accepted. */
  readonly command: { command: string; title: string; arguments?: unknown[] } | undefined;
  /** The server's name of the offer, and how much of `text` comes before the server's own. */
  readonly id: string | undefined;
  readonly lead: number;
}

type Between = (start: Point) => string | undefined;

interface Raw {
  insertText?: unknown;
  range?: unknown;
  command?: unknown;
}

function commandOf(value: unknown): Item["command"] {
  const command = value as { command?: unknown; title?: unknown; arguments?: unknown } | null;
  if (typeof command?.command !== "string") {
    return undefined;
  }
  const title = typeof command.title === "string" ? command.title : command.command;
  return Array.isArray(command.arguments)
    ? { command: command.command, title, arguments: command.arguments as unknown[] }
    : { command: command.command, title };
}

function idOf(command: Item["command"]): string | undefined {
  const first = command?.arguments?.[0] as { id?: unknown } | undefined;
  return typeof first?.id === "string" ? first.id : undefined;
}

function readItem(raw: Raw, origin: Origin, between: Between): Item | undefined {
  if (typeof raw.insertText !== "string") {
    return undefined;
  }
  let text = plain(raw.insertText);
  const here = { line: origin.line, character: origin.column };
  const range = raw.range == null ? { start: here, end: here } : readArea(raw.range);
  if (!range || range.end.line !== range.start.line || range.start.line < origin.line) {
    return undefined;
  }
  let replaced: number;
  let lead = 0;
  if (range.start.line === origin.line && range.start.character <= origin.column) {
    // It begins before the cursor, with what stands there.
    const before = origin.before.slice(range.start.character);
    replaced = range.end.character - origin.column;
    if (!text.startsWith(before) || replaced < 0) {
      return undefined;
    }
    text = text.slice(before.length);
  } else {
    const typed = between(range.start);
    if (typed === undefined) {
      return undefined;
    }
    lead = typed.length;
    text = typed + text;
    replaced = range.end.character - range.start.character;
  }
  if (replaced < 0 || replaced > origin.after.length || text === "") {
    return undefined;
  }
  const command = commandOf(raw.command);
  return { text, replaced, command, id: idOf(command), lead };
}

/**
 * Reads the answer of `textDocument/inlineCompletion`; leaves out what does not fit.
 *
 * @param between the text between the place that was asked about and a later one.
 */
export function readItems(result: unknown, origin: Origin, between: Between): Item[] {
  const list = Array.isArray(result) ? result : (result as { items?: unknown } | null)?.items;
  const found: Item[] = [];
  for (const raw of Array.isArray(list) ? (list as unknown[]) : []) {
    const item =
      typeof raw === "object" && raw !== null ? readItem(raw, origin, between) : undefined;
    if (item && !found.some((one) => one.text === item.text)) {
      found.push(item);
    }
  }
  return found;
}

/** What a draft shows at the place that was asked about; undefined if it is none for it. */
export function readDraftAt(
  draft: Draft,
  origin: Origin,
): { committed: string; undecided: string; replaced: number } | undefined {
  const { start, end } = draft.range;
  if (start.line !== origin.line || end.line !== origin.line) {
    return undefined;
  }
  const replaced = end.character - origin.column;
  const before = origin.before.slice(start.character);
  const committed = plain(draft.committed);
  const isBeside = start.character > origin.column || replaced < 0;
  if (isBeside || replaced > origin.after.length || !committed.startsWith(before)) {
    return undefined;
  }
  return {
    committed: committed.slice(before.length),
    undecided: plain(draft.draft),
    replaced,
  };
}
