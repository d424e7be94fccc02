/**
 * *Refine Selection*: the server rewrites what is improbable in a selection. The change is shown in
 * place, word by word, while it is refined, and waits to be accepted or rejected.
 */

import * as vscode from "vscode";
import { asContent } from "./drafts.ts";
import type { Server } from "./server.ts";
import { aboutAnother, plain } from "./stale.ts";
import { changes, type Change } from "./words.ts";
import { readEditAnswer, readRefinement, type Area } from "./wire.ts";

/** The shortest time between two drawings, in milliseconds. */
const PACE = 40;
const KEYS = "Enter accepts, Escape rejects";

interface Refining {
  readonly editor: vscode.TextEditor;
  readonly range: vscode.Range;
  readonly version: number;
  readonly uri: string;
  readonly token: string;
  readonly old: string;
  readonly source: vscode.CancellationTokenSource;
  /** What was selected, which is selected again if the change is rejected. */
  readonly selection: vscode.Selection;
  sequence: number;
  text: string;
  isFinal: boolean;
  lastDrawing: number;
  timer: NodeJS.Timeout | undefined;
}

function sameArea(range: vscode.Range, area: Area): boolean {
  return (
    range.start.line === area.start.line &&
    range.start.character === area.start.character &&
    range.end.line === area.end.line &&
    range.end.character === area.end.character
  );
}

export class Refine implements vscode.Disposable {
  private readonly removed = vscode.window.createTextEditorDecorationType({
    backgroundColor: new vscode.ThemeColor("diffEditor.removedTextBackground"),
    color: new vscode.ThemeColor("gitDecoration.deletedResourceForeground"),
    textDecoration: "line-through",
  });
  private readonly added = vscode.window.createTextEditorDecorationType({
    rangeBehavior: vscode.DecorationRangeBehavior.ClosedClosed,
  });
  private readonly hint = vscode.window.createTextEditorDecorationType({});
  private readonly disposables: { dispose(): unknown }[] = [this.removed, this.added, this.hint];
  private current: Refining | undefined;
  private count = 0;

  constructor(private readonly server: Server) {
    this.disposables.push(
      vscode.workspace.onDidChangeTextDocument((event) => {
        const refining = this.current;
        if (refining?.editor.document === event.document && event.contentChanges.length > 0) {
          this.end();
          this.say("The text has changed; the refinement is dropped.");
        }
      }),
      vscode.window.onDidChangeActiveTextEditor((editor) => {
        // The same document may come back in the same editor; its decorations are drawn again then.
        if (editor && editor === this.current?.editor) {
          this.draw(this.current);
        }
      }),
    );
  }

  /** Refines the selection, or the range that a code action names. */
  async start(area?: Area): Promise<void> {
    const editor = vscode.window.activeTextEditor;
    if (!editor) {
      return;
    }
    const range = area
      ? editor.document.validateRange(
          new vscode.Range(
            area.start.line,
            area.start.character,
            area.end.line,
            area.end.character,
          ),
        )
      : new vscode.Range(editor.selection.start, editor.selection.end);
    if (range.isEmpty) {
      this.say("Select what is to be refined.");
      return;
    }
    this.end();
    const refining = this.begin(editor, range);
    const options = {
      location: vscode.ProgressLocation.Notification,
      title: "Refining the selection",
      cancellable: true,
    };
    await vscode.window.withProgress(options, async (_, cancellation) => {
      cancellation.onCancellationRequested(() => {
        this.reject();
      });
      await this.run(refining);
    });
  }

  /** Shows where the last change asks for another one. Accepting it leads there. */
  async next(): Promise<void> {
    const editor = vscode.window.activeTextEditor;
    if (!editor) {
      return;
    }
    this.end();
    const { document, selection } = editor;
    const uri = document.uri.toString();
    const { line, character } = selection.active;
    const argument = {
      textDocument: { uri, version: document.version },
      position: { line, character },
    };
    const options = {
      location: vscode.ProgressLocation.Notification,
      title: "Looking for the next edit",
      cancellable: true,
    };
    await vscode.window.withProgress(options, async (_, cancellation) => {
      const { version } = document;
      let why: string;
      try {
        const result = await this.server.execute("dlm.nextEdit", argument, { cancellation });
        const { edits, reason } = readEditAnswer(result, uri);
        const [edit, ...others] = edits;
        if (edit && others.length === 0 && document.version === version) {
          this.propose(editor, edit.range, edit.text);
          return;
        }
        why = edit ? "The text has changed meanwhile." : (reason ?? "There is no next edit.");
      } catch (error) {
        why = error instanceof Error ? error.message : String(error);
      }
      if (!cancellation.isCancellationRequested) {
        this.say(why);
      }
    });
  }

  /** Shows a state of the refinement, if it is about the one that runs. */
  told(params: unknown): void {
    const state = readRefinement(params);
    const refining = this.current;
    if (!state || !refining || refining.isFinal || !sameArea(refining.range, state.range)) {
      return;
    }
    if (aboutAnother(refining, state) !== undefined) {
      return;
    }
    refining.sequence = state.sequence;
    refining.text = plain(state.text);
    this.drawSoon(refining);
  }

  /** Makes the change that is shown; one step of undo. */
  async accept(): Promise<void> {
    const refining = this.current;
    if (!refining?.isFinal) {
      return;
    }
    const { editor, range, text, version } = refining;
    this.end();
    // Where the change is elsewhere, the cursor goes to its end; the editor can go back from there.
    const isElsewhere = !range.contains(editor.selection.active);
    if (editor.document.version !== version) {
      this.say("The text has changed; the refinement is dropped.");
      return;
    }
    const isMade = await editor.edit(
      (edit) => {
        edit.replace(range, text);
      },
      { undoStopBefore: true, undoStopAfter: true },
    );
    if (!isMade) {
      this.say("The editor has refused the change.");
    } else if (isElsewhere) {
      const end = new vscode.Position(range.start.line, range.start.character + text.length);
      editor.selection = new vscode.Selection(end, end);
      editor.revealRange(new vscode.Range(end, end));
    }
  }

  /** Leaves the text as it is. */
  reject(): void {
    const refining = this.current;
    this.end();
    if (refining && refining.editor.document.version === refining.version) {
      refining.editor.selection = refining.selection;
    }
  }

  /** The server has gone. */
  lost(): void {
    if (this.current && !this.current.isFinal) {
      this.end();
      this.say("The language server has gone; the refinement is dropped.");
    }
  }

  dispose(): void {
    this.end();
    for (const one of this.disposables) {
      one.dispose();
    }
  }

  private begin(editor: vscode.TextEditor, range: vscode.Range): Refining {
    this.count += 1;
    const old = plain(editor.document.getText(range));
    const refining: Refining = {
      editor,
      range,
      version: editor.document.version,
      uri: editor.document.uri.toString(),
      token: `dlm-refine-${process.pid}-${this.count}`,
      old,
      source: new vscode.CancellationTokenSource(),
      selection: editor.selection,
      sequence: 0,
      text: old,
      isFinal: false,
      lastDrawing: 0,
      timer: undefined,
    };
    this.current = refining;
    void vscode.commands.executeCommand("setContext", "dlm.isRefining", true);
    // The colours of a selection would cover those of the change.
    editor.selection = new vscode.Selection(editor.selection.active, editor.selection.active);
    this.draw(refining);
    return refining;
  }

  /** Shows a finished change, and brings it into view. */
  private propose(editor: vscode.TextEditor, area: Area, text: string): void {
    const range = editor.document.validateRange(
      new vscode.Range(area.start.line, area.start.character, area.end.line, area.end.character),
    );
    const refining = this.begin(editor, range);
    refining.text = plain(text);
    refining.isFinal = true;
    editor.revealRange(range, vscode.TextEditorRevealType.InCenterIfOutsideViewport);
    void vscode.commands.executeCommand("setContext", "dlm.isRefined", true);
    this.draw(refining);
  }

  private async run(refining: Refining): Promise<void> {
    const { range, token, uri, version, source } = refining;
    const place = ({ line, character }: vscode.Position) => ({ line, character });
    const argument = {
      textDocument: { uri, version },
      range: { start: place(range.start), end: place(range.end) },
      token,
    };
    let why: string | undefined;
    try {
      const options = { token, cancellation: source.token };
      const answer = readEditAnswer(
        await this.server.execute("dlm.refine", argument, options),
        uri,
      );
      const [edit, ...others] = answer.edits;
      if (this.current !== refining) {
        return;
      }
      if (edit && others.length === 0 && sameArea(range, edit.range)) {
        refining.text = plain(edit.text);
        refining.isFinal = refining.text !== refining.old;
      }
      why = answer.reason ?? "the text stays as it is.";
    } catch (error) {
      why = error instanceof Error ? error.message : String(error);
    }
    if (this.current !== refining) {
      return;
    }
    if (!refining.isFinal) {
      this.end();
      this.say(`Nothing is refined: ${why}`);
      return;
    }
    void vscode.commands.executeCommand("setContext", "dlm.isRefined", true);
    this.draw(refining);
  }

  private end(): void {
    const refining = this.current;
    this.current = undefined;
    if (!refining) {
      return;
    }
    clearTimeout(refining.timer);
    refining.source.cancel();
    refining.source.dispose();
    for (const type of [this.removed, this.added, this.hint]) {
      refining.editor.setDecorations(type, []);
    }
    void vscode.commands.executeCommand("setContext", "dlm.isRefining", false);
    void vscode.commands.executeCommand("setContext", "dlm.isRefined", false);
  }

  private drawSoon(refining: Refining): void {
    clearTimeout(refining.timer);
    const wait = Math.max(0, PACE - (performance.now() - refining.lastDrawing));
    refining.timer = setTimeout(() => {
      if (this.current === refining) {
        this.draw(refining);
      }
    }, wait);
  }

  private draw(refining: Refining): void {
    const { editor, range, old, text } = refining;
    clearTimeout(refining.timer);
    refining.lastDrawing = performance.now();
    const found = changes(old, text);
    editor.setDecorations(
      this.removed,
      found
        .filter((change) => change.end > change.start)
        .map(
          (change) =>
            new vscode.Range(
              this.placeOf(refining, change.start),
              this.placeOf(refining, change.end),
            ),
        ),
    );
    editor.setDecorations(
      this.added,
      found.filter((change) => change.text !== "").map((change) => this.addition(refining, change)),
    );
    const end = editor.document.lineAt(range.start.line).range.end;
    const contentText = `\u00a0\u00a0\u00a0${refining.isFinal ? KEYS : "refining…"}`;
    editor.setDecorations(this.hint, [
      {
        range: new vscode.Range(end, end),
        renderOptions: {
          after: { contentText, color: new vscode.ThemeColor("descriptionForeground") },
        },
      },
    ]);
  }

  private addition(refining: Refining, change: Change): vscode.DecorationOptions {
    const at = this.placeOf(refining, change.end);
    const tabSize = Number(refining.editor.options.tabSize) || 4;
    // A decoration has one line; what has more shows where it is broken.
    const contentText = asContent(change.text.replaceAll("\n", "⏎"), tabSize);
    return {
      range: new vscode.Range(at, at),
      renderOptions: {
        after: {
          contentText,
          color: new vscode.ThemeColor("gitDecoration.addedResourceForeground"),
          backgroundColor: new vscode.ThemeColor("diffEditor.insertedTextBackground"),
        },
      },
    };
  }

  /** Where an offset of the old text stands in the document. */
  private placeOf(refining: Refining, offset: number): vscode.Position {
    const lines = refining.old.slice(0, offset).split("\n");
    const { start } = refining.range;
    const last = lines[lines.length - 1] ?? "";
    const line = start.line + lines.length - 1;
    return new vscode.Position(line, last.length + (lines.length === 1 ? start.character : 0));
  }

  private say(message: string): void {
    void vscode.window.showInformationMessage(message);
  }
}
