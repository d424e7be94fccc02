/**
 * *Fill Here*: a long completion, which grows at the cursor until it is accepted or rejected.
 *
 * The line that is being written is drawn as a draft; as soon as whole lines are decided, they are
 * given to the editor as its own ghost text, which only ever grows.
 */

import * as vscode from "vscode";
import { readDraftAt } from "./items.ts";
import type { Offering, Suggestions } from "./inline.ts";
import { noteChanges, nowAt, originAt } from "./place.ts";
import type { Server } from "./server.ts";
import { get } from "./settings.ts";
import { aboutAnother, plain, restOf, verdict, type Origin } from "./stale.ts";
import { readDraft, readEditAnswer } from "./wire.ts";

/** The shortest time between two growths of the ghost text, each of which blanks it for a frame. */
const PACE = 500;

interface Filling {
  readonly origin: Origin;
  readonly editor: vscode.TextEditor;
  readonly source: vscode.CancellationTokenSource;
  /** What is offered, and how much right of the cursor it replaces. */
  text: string;
  replaced: number;
  isFinal: boolean;
  addedLines: number;
  lastGrowth: number;
  timer: NodeJS.Timeout | undefined;
}

/** The whole lines at the beginning of a text that may go on. */
function wholeLines(text: string): string {
  const end = text.lastIndexOf("\n");
  return end < 0 ? "" : text.slice(0, end);
}

export class Fill implements Offering, vscode.Disposable {
  private current: Filling | undefined;
  private count = 0;
  private suggestions: Suggestions | undefined;
  private readonly disposables: vscode.Disposable[] = [];

  constructor(private readonly server: Server) {
    this.disposables.push(
      vscode.workspace.onDidChangeTextDocument((event) => {
        const filling = this.current;
        if (filling?.editor.document === event.document && event.contentChanges.length > 0) {
          const { origin, addedLines } = filling;
          filling.addedLines = noteChanges(origin, addedLines, event.contentChanges);
        }
      }),
      vscode.window.onDidChangeTextEditorSelection((event) => {
        if (event.textEditor === this.current?.editor && this.rest(this.current) === undefined) {
          this.end();
        }
      }),
      vscode.window.onDidChangeActiveTextEditor(() => {
        this.end();
      }),
    );
  }

  /** Draws by the view of the suggestions, since there is one draft at a time. */
  attach(suggestions: Suggestions): void {
    this.suggestions = suggestions;
  }

  offer(
    document: vscode.TextDocument,
    position: vscode.Position,
  ): vscode.InlineCompletionItem[] | undefined {
    const filling = this.current;
    if (filling?.editor.document !== document) {
      return undefined;
    }
    const rest = this.rest(filling);
    if (rest === undefined) {
      return undefined;
    }
    if (rest.text === "") {
      return filling.isFinal ? undefined : [];
    }
    const range = new vscode.Range(position, position.translate(0, rest.replaced));
    return [new vscode.InlineCompletionItem(rest.text, range)];
  }

  /** Fills at the cursor. Resolves when the last of it has come, or it was ended. */
  async start(): Promise<void> {
    const editor = vscode.window.activeTextEditor;
    if (!editor) {
      return;
    }
    this.end();
    this.suggestions?.drop("a fill begins");
    const filling = this.begin(editor);
    const options = {
      location: vscode.ProgressLocation.Notification,
      title: "Filling",
      cancellable: true,
    };
    await vscode.window.withProgress(options, async (_, cancellation) => {
      cancellation.onCancellationRequested(() => {
        this.reject();
      });
      await this.run(filling);
    });
  }

  /** Shows a draft of the server, if it is of the fill. */
  told(params: unknown): void {
    const draft = readDraft(params);
    const filling = this.current;
    if (!draft || !filling || filling.isFinal) {
      return;
    }
    const item = aboutAnother(filling.origin, draft)
      ? undefined
      : readDraftAt(draft, filling.origin);
    if (!item) {
      return;
    }
    filling.origin.sequence = draft.sequence;
    const decided = wholeLines(item.committed);
    if (decided.length > filling.text.length && decided.startsWith(filling.text)) {
      filling.text = decided;
      filling.replaced = 0;
      this.grow(filling);
    } else if (filling.text === "") {
      const position = filling.editor.selection.active;
      this.suggestions?.view.show(filling.editor, position, item);
    }
  }

  /** Drops the fill and what is shown of it. */
  reject(): void {
    if (this.current) {
      this.end();
      void vscode.commands.executeCommand("editor.action.inlineSuggest.hide");
    }
  }

  /** Ends the fill; the editor keeps or drops what it shows. */
  end(): void {
    const filling = this.current;
    this.current = undefined;
    if (filling) {
      clearTimeout(filling.timer);
      filling.source.cancel();
      filling.source.dispose();
      this.suggestions?.view.clear();
      void vscode.commands.executeCommand("setContext", "dlm.isFilling", false);
    }
  }

  /** The server has gone. */
  lost(): void {
    const wasRunning = this.current !== undefined && !this.current.isFinal;
    this.end();
    if (wasRunning) {
      void vscode.window.showWarningMessage("Nothing was filled: the language server has gone.");
    }
  }

  dispose(): void {
    this.end();
    for (const one of this.disposables) {
      one.dispose();
    }
  }

  private begin(editor: vscode.TextEditor): Filling {
    this.count += 1;
    const token = `dlm-fill-${process.pid}-${this.count}`;
    const filling: Filling = {
      origin: originAt(editor.document, editor.selection.active, token),
      editor,
      source: new vscode.CancellationTokenSource(),
      text: "",
      replaced: 0,
      isFinal: false,
      addedLines: 0,
      lastGrowth: 0,
      timer: undefined,
    };
    this.current = filling;
    void vscode.commands.executeCommand("setContext", "dlm.isFilling", true);
    return filling;
  }

  private async run(filling: Filling): Promise<void> {
    const { origin, source } = filling;
    const argument = {
      uri: origin.uri,
      version: origin.version,
      position: { line: origin.line, character: origin.column },
      limits: { tokensMax: get<number>("fill.tokens") },
      mode: get<string>("fill.mode"),
    };
    let result: unknown;
    try {
      const options = { token: origin.token, cancellation: source.token };
      result = await this.server.execute("dlm.fill", argument, options);
    } catch (error) {
      if (this.current === filling) {
        this.end();
        const why = error instanceof Error ? error.message : String(error);
        void vscode.window.showWarningMessage(`Nothing was filled: ${why}`);
      }
      return;
    }
    if (this.current !== filling) {
      return;
    }
    const answer = readEditAnswer(result, origin.uri);
    const [edit, ...others] = answer.edits;
    const start = edit?.range.start;
    if (!edit || others.length > 0 || start?.line !== origin.line) {
      this.end();
      const why = answer.reason ?? "the server gave no answer.";
      void vscode.window.showInformationMessage(`Nothing to fill here: ${why}`);
      return;
    }
    const before = origin.before.slice(start.character);
    const text = plain(edit.text);
    filling.text = text.startsWith(before) ? text.slice(before.length) : text;
    filling.replaced = Math.max(0, edit.range.end.character - origin.column);
    filling.isFinal = true;
    void vscode.commands.executeCommand("setContext", "dlm.isFilling", false);
    this.grow(filling);
  }

  /** What is left to offer; undefined where something else was typed or the cursor is elsewhere. */
  private rest(filling: Filling): { text: string; replaced: number } | undefined {
    const { editor, origin } = filling;
    if (editor !== vscode.window.activeTextEditor || !editor.selection.isEmpty) {
      return undefined;
    }
    const now = nowAt(editor.document, editor.selection.active, origin);
    const found = verdict(origin, now);
    if (!found.fits) {
      return undefined;
    }
    const text = restOf(filling.text, found.typed);
    if (text === undefined) {
      // Nothing is decided yet that could contradict what was typed.
      return found.typed === "" || filling.text === "" ? { text: "", replaced: 0 } : undefined;
    }
    return { text, replaced: Math.max(0, filling.replaced - found.passed) };
  }

  private grow(filling: Filling): void {
    clearTimeout(filling.timer);
    const wait = Math.max(0, PACE - (performance.now() - filling.lastGrowth));
    filling.timer = setTimeout(() => {
      if (this.current === filling) {
        filling.lastGrowth = performance.now();
        void this.refresh();
      }
    }, wait);
  }

  private async refresh(): Promise<void> {
    // Without hiding it first, VS Code keeps the ghost text that it shows.
    await vscode.commands.executeCommand("editor.action.inlineSuggest.hide");
    await vscode.commands.executeCommand("editor.action.inlineSuggest.trigger");
    this.suggestions?.view.handOver();
  }
}
