/**
 * The suggestion at the cursor: when it is asked for, and what of it is given to the editor.
 *
 * There is at most one. Its text is kept relative to the place that it was asked for; what was typed
 * there since is taken off whenever the editor asks again, so that typing on it needs no request.
 * `stale.ts` alone decides whether it stands.
 */

import * as vscode from "vscode";
import type { LanguageClient } from "vscode-languageclient/node";
import { DraftView } from "./drafts.ts";
import { readDraftAt, readItems, type Item } from "./items.ts";
import { nowAt, noteChanges, originAt, textBetween } from "./place.ts";
import { Rhythm } from "./rhythm.ts";
import { areDraftsLive, get } from "./settings.ts";
import { silentBecause } from "./silence.ts";
import { aboutAnother, mayContinue, restOf, verdict, type Origin } from "./stale.ts";
import type { Status } from "./status.ts";
import { readDraft } from "./wire.ts";

const METHOD = "textDocument/inlineCompletion";
/** What VS Code waits itself before it asks a provider, in milliseconds. */
const EDITORS_DELAY = 50;
/** How long a request that the editor no longer waits for goes on: the server hands its work to the
 * next one, which comes after the delay. */
const LINGER = 400;
const PAIRS = ["()", "[]", "{}", '""', "''", "``", "<>"];

interface Asked {
  readonly origin: Origin;
  readonly isInvoked: boolean;
  readonly source: vscode.CancellationTokenSource;
  items: readonly Item[] | undefined;
  draft: { committed: string; undecided: string; replaced: number } | undefined;
  addedLines: number;
  /** The characters that the server was told are accepted. */
  accepted: number;
  /** Whether the editor was given the answer while it waited for it. */
  wasGiven: boolean;
}

/** Somebody else's suggestion at a place, such as a fill. */
export interface Offering {
  offer(
    document: vscode.TextDocument,
    position: vscode.Position,
  ): vscode.InlineCompletionItem[] | undefined;
}

function sleep(milliseconds: number, token: vscode.CancellationToken): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, milliseconds);
    token.onCancellationRequested(() => {
      clearTimeout(timer);
      resolve();
    });
  });
}

export class Suggestions implements vscode.Disposable {
  readonly view = new DraftView();
  private readonly rhythm = new Rhythm();
  private readonly disposables: { dispose(): unknown }[] = [this.view];
  private current: Asked | undefined;
  private count = 0;
  /** Why the last suggestion or draft was dropped, for the log. */
  dropped: string | undefined;

  constructor(
    private readonly client: () => LanguageClient | undefined,
    private readonly status: Status,
    private readonly offerings: Offering,
  ) {
    this.disposables.push(
      vscode.workspace.onDidChangeTextDocument((event) => {
        this.changed(event);
      }),
      vscode.window.onDidChangeTextEditorSelection((event) => {
        this.moved(event.textEditor);
      }),
      vscode.window.onDidChangeActiveTextEditor(() => {
        this.drop("another editor is active");
      }),
    );
  }

  /** The usual time to an answer in milliseconds. */
  get latency(): number | undefined {
    return this.rhythm.latency;
  }

  /** The editor asks what to show at a cursor. */
  async provide(
    document: vscode.TextDocument,
    position: vscode.Position,
    context: vscode.InlineCompletionContext,
    token: vscode.CancellationToken,
  ): Promise<vscode.InlineCompletionItem[] | undefined> {
    const offered = this.offerings.offer(document, position);
    if (offered) {
      return offered;
    }
    const isInvoked = context.triggerKind === vscode.InlineCompletionTriggerKind.Invoke;
    const reason = silentBecause(document, isInvoked);
    this.status.silent(reason);
    if (reason !== undefined) {
      this.drop(reason);
      return undefined;
    }
    const plainContext = context.selectedCompletionInfo === undefined;
    const keep = () => (plainContext ? this.give(document, position, isInvoked) : undefined);
    const kept = keep();
    if (kept) {
      return kept;
    }
    if (!isInvoked) {
      await sleep(this.rhythm.wait(get("delay"), EDITORS_DELAY), token);
      if (token.isCancellationRequested) {
        return undefined;
      }
    }
    return keep() ?? (await this.ask(document, position, context, token));
  }

  /** Shows a draft of the server, if it is one for what stands at the cursor. */
  told(params: unknown): void {
    const draft = readDraft(params);
    const asked = this.current;
    if (!draft || !asked || asked.items) {
      return;
    }
    const reason = aboutAnother(asked.origin, draft);
    const item = reason === undefined ? readDraftAt(draft, asked.origin) : undefined;
    if (!item) {
      this.dropped = reason ?? "it cannot be read";
      return;
    }
    asked.origin.sequence = draft.sequence;
    asked.draft = item;
    this.redraw();
  }

  /** Drops what is shown of a draft, and what is asked for. */
  drop(reason: string): void {
    const gone = this.current;
    this.current = undefined;
    this.view.clear();
    if (gone) {
      this.dropped = reason;
      gone.source.cancel();
      gone.source.dispose();
    }
  }

  dispose(): void {
    this.drop("the extension ends");
    for (const one of this.disposables) {
      one.dispose();
    }
  }

  private async ask(
    document: vscode.TextDocument,
    position: vscode.Position,
    context: vscode.InlineCompletionContext,
    token: vscode.CancellationToken,
  ): Promise<vscode.InlineCompletionItem[] | undefined> {
    const client = this.client();
    if (!client) {
      return undefined;
    }
    const isInvoked = context.triggerKind === vscode.InlineCompletionTriggerKind.Invoke;
    const asked = this.begin(document, position, isInvoked, token);
    const params: Record<string, unknown> = {
      ...client.code2ProtocolConverter.asInlineCompletionParams(document, position, context),
    };
    if (areDraftsLive() && context.selectedCompletionInfo === undefined) {
      params["workDoneToken"] = asked.origin.token;
    }
    const began = performance.now();
    let result: unknown;
    try {
      result = await client.sendRequest(METHOD, params, asked.source.token);
    } catch (error) {
      if (this.current === asked) {
        this.drop(error instanceof Error ? error.message : String(error));
      }
      return undefined;
    }
    this.rhythm.answered(performance.now() - began);
    if (this.current !== asked) {
      return undefined;
    }
    const shown = this.settle(asked, document, result, context);
    asked.wasGiven = !token.isCancellationRequested;
    if (!asked.wasGiven && shown && this.isStillWanted(asked)) {
      // VS Code gives a request up after 750 ms where it could show its menu of words instead, and
      // does not ask again.
      await vscode.commands.executeCommand("editor.action.inlineSuggest.trigger");
      this.view.handOver();
    }
    return shown;
  }

  /** Whether the cursor still stands where a request was made for, with nothing typed since. */
  private isStillWanted(asked: Asked): boolean {
    const editor = vscode.window.activeTextEditor;
    if (!editor || editor.selections.length > 1 || !editor.selection.isEmpty) {
      return false;
    }
    const position = editor.selection.active;
    const found = verdict(asked.origin, nowAt(editor.document, position, asked.origin));
    return found.fits && found.typed === "";
  }

  /** Makes a request the one whose drafts are shown. The server ends the work of the one before, or
   * goes on with it for the new one. */
  private begin(
    document: vscode.TextDocument,
    position: vscode.Position,
    isInvoked: boolean,
    token: vscode.CancellationToken,
  ): Asked {
    this.count += 1;
    const asked: Asked = {
      origin: originAt(document, position, `dlm-${process.pid}-${this.count}`),
      isInvoked,
      source: new vscode.CancellationTokenSource(),
      items: undefined,
      draft: undefined,
      addedLines: 0,
      accepted: 0,
      wasGiven: false,
    };
    token.onCancellationRequested(() => {
      setTimeout(() => {
        if (this.current !== asked) {
          asked.source.cancel();
        } else if (!asked.items && !this.isStillWanted(asked)) {
          this.drop("the editor no longer asks");
        }
      }, LINGER);
    });
    this.current = asked;
    return asked;
  }

  private settle(
    asked: Asked,
    document: vscode.TextDocument,
    result: unknown,
    context: vscode.InlineCompletionContext,
  ): vscode.InlineCompletionItem[] | undefined {
    if (context.selectedCompletionInfo !== undefined) {
      // What the menu's entry replaces is the editor's affair.
      this.current = undefined;
      this.view.clear();
      return this.asGiven(result);
    }
    const between = (end: { line: number; character: number }) =>
      textBetween(document, asked.origin, end);
    const least = asked.isInvoked ? 1 : get<number>("minimumLength");
    const items = readItems(result, asked.origin, between).filter(
      (item) => item.text.trim().length >= least,
    );
    const editor = vscode.window.activeTextEditor;
    const position = editor?.document === document ? editor.selection.active : undefined;
    if (items.length === 0 || !position) {
      this.drop("there is nothing to suggest");
      return [];
    }
    asked.items = items;
    const shown = this.kept(document, position);
    if (shown) {
      this.view.handOver();
    } else {
      this.drop("the answer does not fit the text");
    }
    return shown;
  }

  private asGiven(result: unknown): vscode.InlineCompletionItem[] {
    const list = Array.isArray(result) ? (result as Record<string, unknown>[]) : [];
    const converter = this.client()?.protocol2CodeConverter;
    return list.flatMap((raw) => {
      if (typeof raw["insertText"] !== "string" || !converter) {
        return [];
      }
      const range = raw["range"] as Parameters<typeof converter.asRange>[0];
      const item = new vscode.InlineCompletionItem(raw["insertText"], converter.asRange(range));
      item.command = raw["command"] as vscode.Command;
      return [item];
    });
  }

  /** What is left of the suggestion at the cursor, unless more than that is asked for. */
  private give(
    document: vscode.TextDocument,
    position: vscode.Position,
    isInvoked: boolean,
  ): vscode.InlineCompletionItem[] | undefined {
    const asked = this.current;
    // Where the user asks by hand after an automatic answer, more than that is wanted.
    if (!asked || (isInvoked && !asked.isInvoked && asked.wasGiven)) {
      return undefined;
    }
    const shown = this.kept(document, position);
    asked.wasGiven ||= shown !== undefined;
    return shown;
  }

  /** What is left of the suggestion at the cursor, if it still fits. */
  private kept(
    document: vscode.TextDocument,
    position: vscode.Position,
  ): vscode.InlineCompletionItem[] | undefined {
    const asked = this.current;
    if (!asked?.items) {
      return undefined;
    }
    const found = verdict(asked.origin, nowAt(document, position, asked.origin));
    if (!found.fits) {
      this.dropped = found.reason;
      return undefined;
    }
    const shown: vscode.InlineCompletionItem[] = [];
    for (const item of asked.items) {
      const rest = restOf(item.text, found.typed);
      const replaced = item.replaced - found.passed;
      if (rest === undefined || rest === "" || replaced < 0) {
        continue;
      }
      const end = position.translate(0, replaced);
      const made = new vscode.InlineCompletionItem(rest, new vscode.Range(position, end));
      if (item.command) {
        made.command = item.command;
      }
      shown.push(made);
    }
    return shown.length > 0 ? shown : undefined;
  }

  /** Draws the draft as it fits the text now. */
  private redraw(): void {
    const asked = this.current;
    const editor = vscode.window.activeTextEditor;
    if (!asked?.draft || asked.items || !editor) {
      return;
    }
    const position = editor.selection.active;
    const isPlain = editor.selections.length === 1 && editor.selection.isEmpty;
    const found = verdict(asked.origin, nowAt(editor.document, position, asked.origin));
    if (!found.fits || !isPlain) {
      this.dropped = found.fits ? "there is a selection" : found.reason;
      this.view.clear();
      return;
    }
    const { committed, undecided } = asked.draft;
    const rest = restOf(committed + undecided, found.typed);
    if (rest === undefined) {
      if (!mayContinue(committed, found.typed)) {
        this.dropped = "something else was typed";
      }
      this.view.clear();
      return;
    }
    const decided = restOf(committed, found.typed) ?? "";
    this.view.show(editor, position, {
      committed: decided,
      undecided: rest.slice(decided.length),
    });
  }

  private changed(event: vscode.TextDocumentChangeEvent): void {
    const editor = vscode.window.activeTextEditor;
    if (event.contentChanges.length === 0 || event.document !== editor?.document) {
      return;
    }
    this.rhythm.key(performance.now());
    const asked = this.current;
    if (asked?.origin.uri !== event.document.uri.toString()) {
      return;
    }
    asked.addedLines = noteChanges(asked.origin, asked.addedLines, event.contentChanges);
    this.noteAcceptance(asked, event);
    // The selection follows in an event of its own, which draws.
  }

  /** Tells the server of a part that the editor has accepted, of which it tells nobody. */
  private noteAcceptance(asked: Asked, event: vscode.TextDocumentChangeEvent): void {
    const [change, ...others] = event.contentChanges;
    const item = asked.items?.[0];
    if (!change || others.length > 0 || item?.id === undefined) {
      return;
    }
    const text = change.text.replace(/\r\n/g, "\n");
    if (text.length < 2 || PAIRS.includes(text)) {
      return;
    }
    const between = textBetween(event.document, asked.origin, change.range.start) ?? "";
    const taken = between.length + text.length - item.lead;
    const isPart = item.text.startsWith(between + text) && between + text !== item.text;
    if (isPart && taken > asked.accepted) {
      asked.accepted = taken;
      const kind = text.includes("\n") ? "line" : "word";
      const argument = { id: item.id, kind, length: taken };
      const params = { command: "dlm.accepted", arguments: [argument] };
      // What is not counted does no harm.
      this.client()
        ?.sendRequest("workspace/executeCommand", params)
        .catch(() => undefined);
    }
  }

  private moved(editor: vscode.TextEditor): void {
    const asked = this.current;
    if (!asked || editor !== vscode.window.activeTextEditor) {
      return;
    }
    const position = editor.selection.active;
    const found = verdict(asked.origin, nowAt(editor.document, position, asked.origin));
    if (found.fits) {
      this.redraw();
    } else {
      this.view.clear();
    }
  }
}
