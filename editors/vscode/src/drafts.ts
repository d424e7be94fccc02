/**
 * A draft at the cursor, drawn as a decoration.
 *
 * VS Code has no stable way to replace a ghost text that it shows without a moment of nothing, so
 * drafts are drawn beside it: the first line while it is refined, and the whole suggestion as VS
 * Code's own ghost text once it is final.
 */

import * as vscode from "vscode";

/** The shortest time between two drawings, in milliseconds. */
const PACE = 40;
/** How long the draft stays after the final suggestion was given to the editor, which takes a
 * moment to draw it. Both are then at the same place, so that there is neither a gap nor a jump. */
const HAND_OVER = 60;

/** Characters that are as wide as a digit in a font for code. */
const ONE_COLUMN_EACH = /^[\x20-\x7e\u00a0]*$/;

export interface DraftText {
  readonly committed: string;
  readonly undecided: string;
}

/** A text as a decoration shows it: blanks are kept, and there is only one line. */
export function asContent(text: string, tabSize: number, column = 0): string {
  let shown = "";
  for (const character of text.split(/\r?\n/, 1)[0] ?? "") {
    if (character === "\t") {
      shown += "\u00a0".repeat(tabSize - ((column + shown.length) % tabSize));
    } else {
      shown += character === " " ? "\u00a0" : character;
    }
  }
  return shown;
}

/** Cuts a draft to its first line. */
export function firstLine(draft: DraftText): DraftText {
  const end = draft.committed.indexOf("\n");
  if (end >= 0) {
    return { committed: draft.committed.slice(0, end), undecided: "" };
  }
  return { committed: draft.committed, undecided: draft.undecided.split("\n", 1)[0] ?? "" };
}

type Rendered = vscode.DecorationInstanceRenderOptions;

function decided(
  contentText: string,
  style: string,
): vscode.ThemableDecorationAttachmentRenderOptions {
  const color = new vscode.ThemeColor("dlm.draftForeground");
  return { contentText, color, fontStyle: "italic", textDecoration: `none; ${style}` };
}

function undecided(
  contentText: string,
  style: string,
): vscode.ThemableDecorationAttachmentRenderOptions {
  const color = new vscode.ThemeColor("dlm.undecidedForeground");
  return {
    contentText,
    color,
    fontStyle: "italic",
    textDecoration: `underline dotted 1px; ${style}`,
  };
}

/** In the middle of a line, where the rest of the line gives way. */
function inTheFlow(line: DraftText, tabSize: number, column: number): Rendered {
  const first = asContent(line.committed, tabSize, column);
  const rest = asContent(line.undecided, tabSize, column + first.length);
  return {
    ...(first === "" ? {} : { before: decided(first, "") }),
    ...(rest === "" ? {} : { after: undecided(rest, "") }),
  };
}

/** At the end of a line, where the editor's ghost text comes to stand at exactly the same place. */
function outsideTheFlow(line: DraftText, tabSize: number, column: number): Rendered {
  const place = "position: absolute";
  const first = asContent(line.committed, tabSize, column);
  const rest = asContent(line.undecided, tabSize, column + first.length);
  if (first === "" || rest === "") {
    return { after: rest === "" ? decided(first, place) : undecided(rest, place) };
  }
  const spacing = Number(vscode.workspace.getConfiguration("editor").get("letterSpacing")) || 0;
  if (!ONE_COLUMN_EACH.test(first) || spacing !== 0) {
    // How wide the first part is, only the editor knows; beside it the second would cover it.
    return { after: undecided(first + rest, place) };
  }
  const after = { ...undecided(rest, place), margin: `0 0 0 ${first.length}ch` };
  return { before: decided(first, place), after };
}

export class DraftView implements vscode.Disposable {
  private readonly type = vscode.window.createTextEditorDecorationType({
    rangeBehavior: vscode.DecorationRangeBehavior.ClosedClosed,
  });
  private editor: vscode.TextEditor | undefined;
  private drawn = "";
  private lastDrawing = 0;
  private timer: NodeJS.Timeout | undefined;
  private end: NodeJS.Timeout | undefined;

  /** Whether a draft is on the screen. */
  get isVisible(): boolean {
    return this.editor !== undefined;
  }

  /** Shows the first line of a draft at a place, at most every 40 ms. */
  show(editor: vscode.TextEditor, position: vscode.Position, draft: DraftText): void {
    const line = firstLine(draft);
    if (line.committed + line.undecided === "") {
      this.clear();
      return;
    }
    clearTimeout(this.timer);
    clearTimeout(this.end);
    const wait = this.editor === editor ? PACE - (performance.now() - this.lastDrawing) : 0;
    if (wait <= 0) {
      this.draw(editor, position, line);
    } else {
      this.timer = setTimeout(() => {
        this.draw(editor, position, line);
      }, wait);
    }
  }

  /** Leaves the draft until the editor has drawn the final suggestion at its place. */
  handOver(): void {
    clearTimeout(this.timer);
    clearTimeout(this.end);
    this.end = setTimeout(() => {
      this.clear();
    }, HAND_OVER);
  }

  clear(): void {
    clearTimeout(this.timer);
    clearTimeout(this.end);
    this.editor?.setDecorations(this.type, []);
    this.editor = undefined;
    this.drawn = "";
  }

  dispose(): void {
    this.clear();
    this.type.dispose();
  }

  private draw(editor: vscode.TextEditor, position: vscode.Position, line: DraftText): void {
    const key = JSON.stringify([position.line, position.character, line]);
    if (this.editor === editor && this.drawn === key) {
      return;
    }
    if (this.editor !== editor) {
      this.editor?.setDecorations(this.type, []);
    }
    const tabSize = Number(editor.options.tabSize) || 4;
    const isAtEnd = position.character >= editor.document.lineAt(position.line).text.length;
    const renderOptions = isAtEnd
      ? outsideTheFlow(line, tabSize, position.character)
      : inTheFlow(line, tabSize, position.character);
    editor.setDecorations(this.type, [
      { range: new vscode.Range(position, position), renderOptions },
    ]);
    this.editor = editor;
    this.drawn = key;
    this.lastDrawing = performance.now();
  }
}
