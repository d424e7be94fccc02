/** The extension: makes its parts, connects them, and takes them down. */

import * as vscode from "vscode";
import type { Middleware } from "vscode-languageclient/node";
import { Fill } from "./fill.ts";
import { Suggestions } from "./inline.ts";
import { install } from "./install.ts";
import { Menu } from "./menu.ts";
import { Pages } from "./pages.ts";
import { isPull, pull } from "./pull.ts";
import { Refine } from "./refine.ts";
import { Server, type Listener } from "./server.ts";
import { forServer, problems, SECTION } from "./settings.ts";
import { Status } from "./status.ts";
import { Warm } from "./warm.ts";
import { readArea } from "./wire.ts";

/** The settings with which the server must be started anew. */
const STARTING = ["enabled", "server.path", "server.args", "draft"];

class Parts implements Listener {
  readonly log = vscode.window.createOutputChannel("dlm-lsp", { log: true });
  readonly status = new Status();
  readonly pages = new Pages();
  readonly server: Server;
  readonly fill: Fill;
  readonly refine: Refine;
  readonly suggestions: Suggestions;
  readonly middleware: Middleware;
  private told = "";

  constructor(readonly context: vscode.ExtensionContext) {
    this.middleware = this.makeMiddleware();
    this.server = new Server(context, this.log, this.status, this);
    this.fill = new Fill(this.server);
    this.refine = new Refine(this.server);
    this.suggestions = new Suggestions(() => this.server.client, this.status, this.fill);
    this.fill.attach(this.suggestions);
    context.subscriptions.push(
      this.log,
      this.status,
      this.pages,
      this.server,
      this.fill,
      this.refine,
      this.suggestions,
      new Warm(this.server),
    );
  }

  draft(params: unknown): void {
    this.suggestions.told(params);
    this.fill.told(params);
  }

  refinement(params: unknown): void {
    this.refine.told(params);
  }

  lost(): void {
    this.suggestions.drop("the language server has gone");
    this.fill.lost();
    this.refine.lost();
  }

  /** Names what is wrong with the settings, each problem once. */
  checkSettings(): void {
    const found = problems();
    for (const problem of found) {
      this.log.warn(problem);
    }
    const message = found.slice(0, 3).join(" ");
    if (message !== "" && message !== this.told) {
      void vscode.window.showWarningMessage(message, "Open Settings").then((chosen) => {
        if (chosen !== undefined) {
          void vscode.commands.executeCommand("workbench.action.openSettingsJson");
        }
      });
    }
    this.told = message;
  }

  /** Settings have changed. */
  configure(event: vscode.ConfigurationChangeEvent): void {
    const isOurs = event.affectsConfiguration(SECTION);
    const isMotion =
      event.affectsConfiguration("workbench.reduceMotion") ||
      event.affectsConfiguration("editor.accessibilitySupport");
    if (!isOurs && !isMotion) {
      return;
    }
    this.checkSettings();
    const isRestart =
      isMotion || STARTING.some((name) => event.affectsConfiguration(`${SECTION}.${name}`));
    if (isRestart) {
      void this.server.restart();
    } else {
      this.server.configure();
    }
  }

  private makeMiddleware(): Middleware {
    return {
      provideInlineCompletionItems: (document, position, context, token) =>
        this.suggestions.provide(document, position, context, token),
      executeCommand: (command, args: unknown[], next) => {
        // What the extension shows itself it also asks for itself.
        if (command === "dlm.fill") {
          return this.fill.start();
        }
        if (command === "dlm.refine") {
          const range = readArea((args[0] as { range?: unknown } | undefined)?.range);
          return this.refine.start(range);
        }
        if (command === "dlm.nextEdit") {
          return this.refine.next();
        }
        return next(command, args) as unknown;
      },
      // The status bar's item says the same of all but a pull, whose progress the user asked for.
      handleWorkDoneProgress: (token, params, next) => {
        if (isPull(token)) {
          next(token, params);
        }
      },
      workspace: {
        configuration: (params) => params.items.map(() => forServer()),
        didChangeConfiguration: () => Promise.resolve(),
      },
    };
  }
}

function registerCommands(parts: Parts): void {
  const { context, fill, log, refine, server, status } = parts;
  const menu = new Menu(server, status, parts.pages, log);
  const commands: Record<string, () => unknown> = {
    "dlm.showMenu": () => menu.show(),
    "dlm.fillHere": () => fill.start(),
    "dlm.rejectFill": () => {
      fill.reject();
    },
    "dlm.refineSelection": () => refine.start(),
    "dlm.suggestNextEdit": () => refine.next(),
    "dlm.acceptRefinement": () => refine.accept(),
    "dlm.rejectRefinement": () => {
      refine.reject();
    },
    "dlm.snoozeSuggestions": () => menu.chooseSnooze(),
    "dlm.toggleSuggestions": () => menu.toggleFile(),
    "dlm.toggleLanguage": () => menu.toggleLanguage(),
    "dlm.chooseMode": () => menu.chooseMode(),
    "dlm.chooseModel": () => menu.chooseModel(),
    "dlm.getModel": () => pull(server, status),
    "dlm.installServer": async () => {
      await server.stop();
      await install(context, server.environment, log);
      await server.start();
    },
    "dlm.restartServer": () => server.restart(),
    "dlm.showStatus": () => menu.showStatus(),
    "dlm.showRequests": () => menu.showRequests(),
    "dlm.showLog": () => {
      menu.showLog();
    },
  };
  for (const [id, run] of Object.entries(commands)) {
    context.subscriptions.push(vscode.commands.registerCommand(id, run));
  }
}

/** Called by the editor once it has started. */
export function activate(context: vscode.ExtensionContext): void {
  const parts = new Parts(context);
  registerCommands(parts);
  context.subscriptions.push(
    vscode.workspace.onDidChangeConfiguration((event) => {
      parts.configure(event);
    }),
    vscode.workspace.onDidGrantWorkspaceTrust(() => {
      void parts.server.restart();
    }),
    parts.status.changed(() => {
      const model = parts.status.latest?.model;
      const hasModel = model !== undefined && model !== "nano";
      void vscode.commands.executeCommand("setContext", "dlm.hasModel", hasModel);
    }),
  );
  parts.checkSettings();
  void parts.server.start();
}
