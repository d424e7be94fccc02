/** Whether a suggestion, or a message about one, still fits the text: one function decides. */

import type { About } from "./wire.ts";

/** What a suggestion was asked for. Columns are UTF-16 units. */
export interface Origin {
  readonly uri: string;
  readonly version: number;
  readonly token: string;
  readonly line: number;
  readonly column: number;
  /** The line's text before the cursor, and after it. */
  readonly before: string;
  readonly after: string;
  readonly lineCount: number;
  /** The number of changes of other lines than the suggestion's, since it was asked for. */
  changedElsewhere: boolean;
  /** Of the newest draft. */
  sequence: number;
}

/** What is there now. */
export interface Now {
  readonly uri: string;
  readonly line: number;
  readonly column: number;
  readonly lineCount: number;
  /** The lines from the suggestion's to the cursor's. */
  readonly lines: readonly string[];
}

export type Verdict =
  | { readonly fits: false; readonly reason: string }
  /** `passed` is how much of the text after the cursor was typed over; negative for closing
   * brackets and quotes that the editor has put there. */
  | { readonly fits: true; readonly typed: string; readonly passed: number };

const PAIRED = /^[)\]}>'"`]+$/;

/** What a request is known by in the messages about it. */
export type Known = Pick<Origin, "uri" | "version" | "token" | "sequence">;

/** Why a message is not about a request, or older than what is known of it. */
export function aboutAnother(origin: Known, about: About): string | undefined {
  if (about.token !== origin.token) {
    return "it is about another request";
  }
  if (about.uri !== origin.uri) {
    return "it is about another document";
  }
  if (about.version !== origin.version) {
    return "it is about another version";
  }
  return about.sequence > origin.sequence ? undefined : "it comes late";
}

function passedOver(after: string, rest: string): number | undefined {
  const passed = after.length - rest.length;
  if (passed >= 0) {
    return after.endsWith(rest) ? passed : undefined;
  }
  const added = rest.slice(0, -passed);
  return rest.endsWith(after) && PAIRED.test(added) ? passed : undefined;
}

/** Decides whether what was asked for `origin` may be shown, and what was typed since. */
export function verdict(origin: Origin, now: Now): Verdict {
  const stale = (reason: string): Verdict => ({ fits: false, reason });
  if (now.uri !== origin.uri) {
    return stale("another document is current");
  }
  if (origin.changedElsewhere) {
    return stale("the text was changed elsewhere");
  }
  const isAbove = now.line < origin.line;
  if (isAbove || (now.line === origin.line && now.column < origin.column)) {
    return stale("the cursor has left the place");
  }
  if (now.lineCount !== origin.lineCount + now.line - origin.line) {
    return stale("lines were added or removed");
  }
  const first = now.lines[0] ?? "";
  const last = now.lines[now.lines.length - 1] ?? "";
  if (first.slice(0, origin.column) !== origin.before) {
    return stale("the text before the cursor has changed");
  }
  const passed = passedOver(origin.after, last.slice(now.column));
  if (passed === undefined) {
    return stale("the text after the cursor has changed");
  }
  const typed = [...now.lines];
  typed[typed.length - 1] = last.slice(0, now.column);
  typed[0] = (typed[0] ?? "").slice(origin.column);
  return { fits: true, typed: typed.join("\n"), passed };
}

/** What of a text is left after something was typed; undefined if it does not begin with that. */
export function restOf(text: string, typed: string): string | undefined {
  return text.startsWith(typed) ? text.slice(typed.length) : undefined;
}

/** Whether a text of which only the beginning is decided may still begin with what was typed. */
export function mayContinue(committed: string, typed: string): boolean {
  return committed.startsWith(typed) || typed.startsWith(committed);
}

/** Text with \n for every line end, in which the server counts. */
export function plain(text: string): string {
  return text.replace(/\r\n?/g, "\n");
}
