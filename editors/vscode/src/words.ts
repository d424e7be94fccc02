/** The words that differ between two texts. */

import { diffArrays } from "diff";

/** Words, operators, blanks and line ends; of other characters each one by itself. */
const PIECES = /[\p{L}\p{N}_]+|[ \t]+|[-+*/%=<>!&|^~]+|[^]/gu;

export interface Change {
  /** Where the old text goes, as offsets into it. */
  readonly start: number;
  readonly end: number;
  /** What comes instead, and where that begins in the new text. */
  readonly text: string;
  readonly newStart: number;
}

/** What to change in `old` to get `fresh`, in order; neighbours are one change. */
export function changes(old: string, fresh: string): Change[] {
  if (old === fresh) {
    return []; // Also of a text that is too long to be compared while the user waits.
  }
  const found: Change[] = [];
  let at = 0;
  let newAt = 0;
  let open: { start: number; text: string; newStart: number } | undefined;
  const close = () => {
    if (open) {
      found.push({ ...open, end: at });
      open = undefined;
    }
  };
  for (const part of diffArrays(old.match(PIECES) ?? [], fresh.match(PIECES) ?? [])) {
    const text = part.value.join("");
    if (!part.added && !part.removed) {
      close();
      at += text.length;
      newAt += text.length;
      continue;
    }
    open ??= { start: at, text: "", newStart: newAt };
    if (part.added) {
      open.text += text;
      newAt += text.length;
    } else {
      at += text.length;
    }
  }
  close();
  return found;
}

/** The old text with the changes made, which is the new one. */
export function applied(old: string, list: readonly Change[]): string {
  let made = "";
  let at = 0;
  for (const change of list) {
    made += old.slice(at, change.start) + change.text;
    at = change.end;
  }
  return made + old.slice(at);
}
