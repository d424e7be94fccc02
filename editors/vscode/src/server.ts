/** The language server as a process: found, started, restarted after a crash, one step at a time. */

import { accessSync, constants, realpathSync, statSync } from "node:fs";
import { homedir } from "node:os";
import * as path from "node:path";
import * as vscode from "vscode";
import {
  CloseAction,
  ErrorAction,
  LanguageClient,
  RevealOutputChannelOn,
  State,
  type LanguageClientOptions,
  type Middleware,
} from "vscode-languageclient/node";
import { findProgram, type Found, type Machine } from "./program.ts";
import { pythonOf } from "./python.ts";
import { forServer, get, getOptional, SECTION } from "./settings.ts";
import { SCHEMES } from "./silence.ts";
import type { Status } from "./status.ts";
import { readStatus } from "./wire.ts";

const RESTARTS_MAX = 3;
const RESTARTS_WITHIN = 180_000; // milliseconds

function isExecutable(file: string): boolean {
  try {
    accessSync(file, constants.X_OK);
    return statSync(file).isFile();
  } catch {
    return false;
  }
}

const machine: Machine = {
  platform: process.platform,
  pathVariable: process.env["PATH"] ?? "",
  home: homedir(),
  isExecutable,
  real(file) {
    try {
      return realpathSync(file);
    } catch {
      return path.normalize(file);
    }
  },
};

/** A client whose errors go to the log alone: what the user is to know, the extension says itself. */
class Client extends LanguageClient {
  override error(message: string, data?: unknown): void {
    super.error(message, data, false);
  }
}

/** What the server's messages are for. */
export interface Listener {
  draft(params: unknown): void;
  refinement(params: unknown): void;
  /** The server has ended, wanted or not. */
  lost(): void;
  readonly middleware: Middleware;
}

export class Server implements vscode.Disposable {
  private running: LanguageClient | undefined;
  private steps: Promise<unknown> = Promise.resolve();
  private crashes: number[] = [];
  private isStopping = false;
  private isStarting = false;
  private offered = false;
  private isDisposed = false;
  /** The program that runs, for the status. */
  program: string | undefined;

  constructor(
    private readonly context: vscode.ExtensionContext,
    private readonly log: vscode.LogOutputChannel,
    private readonly status: Status,
    private readonly listener: Listener,
  ) {}

  /** The client, while the server runs. */
  get client(): LanguageClient | undefined {
    return this.running?.state === State.Running ? this.running : undefined;
  }

  /** The environment that the extension installs the server into. */
  get environment(): string {
    return vscode.Uri.joinPath(this.context.globalStorageUri, "venv").fsPath;
  }

  /** Starts the server, if it is wanted and does not run. */
  start(): Promise<void> {
    return this.inTurn(() => this.doStart());
  }

  stop(): Promise<void> {
    return this.inTurn(() => this.doStop());
  }

  /** Ends the server and starts it again; restarts that come meanwhile wait for their turn. */
  restart(): Promise<void> {
    this.crashes = [];
    this.offered = false;
    return this.inTurn(async () => {
      await this.doStop();
      await this.doStart();
    });
  }

  /** Tells the server that settings have changed. */
  configure(): void {
    const settings = { [SECTION]: forServer() };
    void this.client?.sendNotification("workspace/didChangeConfiguration", { settings });
  }

  /** Runs one of the server's commands. Rejects with the server's error. */
  async execute(
    command: string,
    argument: object,
    options: { token?: string; cancellation?: vscode.CancellationToken } = {},
  ): Promise<unknown> {
    const { client } = this;
    if (!client) {
      throw new Error("The language server is not running; see “dlm: Show Status”.");
    }
    const params = {
      command,
      arguments: [argument],
      ...(options.token === undefined ? {} : { workDoneToken: options.token }),
    };
    // Without a token there must be no argument for one: it would be sent as a parameter.
    const rest = options.cancellation === undefined ? [] : [options.cancellation];
    try {
      return await client.sendRequest("workspace/executeCommand", params, ...rest);
    } catch (error) {
      // What the library says of a connection that has ended is about the connection.
      throw client.state === State.Running ? error : new Error("The language server has gone.");
    }
  }

  dispose(): void {
    this.isDisposed = true;
    void this.stop();
  }

  private inTurn(step: () => Promise<void>): Promise<void> {
    const next = this.steps.then(step);
    this.steps = next.catch((error: unknown) => {
      this.log.error(String(error));
    });
    return next;
  }

  private async find(): Promise<Found> {
    const isTrusted = vscode.workspace.isTrusted;
    return findProgram(
      {
        path: getOptional("server.path"),
        workspaces: (vscode.workspace.workspaceFolders ?? [])
          .filter((folder) => folder.uri.scheme === "file")
          .map((folder) => folder.uri.fsPath),
        isTrusted,
        pythonFolder: isTrusted ? await pythonOf() : undefined,
        environment: this.environment,
      },
      machine,
    );
  }

  private async doStart(): Promise<void> {
    if (this.running || this.isDisposed) {
      return;
    }
    if (!get<boolean>("enabled")) {
      this.status.silent("Switched off by dlm.enabled.");
      return;
    }
    this.status.silent(undefined);
    const found = await this.find();
    if (found.program === undefined) {
      this.status.failed(found.why);
      this.log.warn(found.why);
      this.offerToInstall(found.why);
      return;
    }
    this.log.info(`starting ${found.program} (${found.origin})`);
    this.program = found.program;
    const client = this.makeClient(found.program);
    this.running = client;
    this.isStarting = true;
    try {
      await client.start();
    } catch (error) {
      this.running = undefined;
      const why = error instanceof Error ? error.message : String(error);
      this.status.failed(`The language server could not be started: ${why}`);
      this.sayFailed(`The language server could not be started: ${why}`);
      return;
    } finally {
      this.isStarting = false;
    }
    this.status.failed(undefined);
    await vscode.commands.executeCommand("setContext", "dlm.isRunning", true);
  }

  private async doStop(): Promise<void> {
    const client = this.running;
    this.running = undefined;
    this.status.told(undefined);
    this.listener.lost();
    await vscode.commands.executeCommand("setContext", "dlm.isRunning", false);
    if (!client) {
      return;
    }
    this.isStopping = true;
    try {
      if (client.needsStop()) {
        await client.stop();
      }
      await client.dispose();
    } catch (error) {
      this.log.warn(`the language server did not end well: ${String(error)}`);
    } finally {
      this.isStopping = false;
    }
  }

  private makeClient(program: string): LanguageClient {
    const options: LanguageClientOptions = {
      documentSelector: SCHEMES.map((scheme) => ({ scheme })),
      initializationOptions: { [SECTION]: forServer() },
      outputChannel: this.log,
      revealOutputChannelOn: RevealOutputChannelOn.Never,
      middleware: this.listener.middleware,
      initializationFailedHandler: () => false,
      errorHandler: {
        error: () => ({ action: ErrorAction.Continue, handled: true }),
        closed: () => {
          this.closed();
          // The library would show the failure of a start by itself, in its own words.
          return { action: CloseAction.DoNotRestart, handled: true };
        },
      },
    };
    const args = get<string[]>("server.args");
    const client = new Client(
      SECTION,
      "dlm-lsp",
      { command: program, args, options: { env: { ...process.env, PYTHONUNBUFFERED: "1" } } },
      options,
    );
    client.onNotification("dlm/draft", (params: unknown) => {
      this.listener.draft(params);
    });
    client.onNotification("dlm/refinement", (params: unknown) => {
      this.listener.refinement(params);
    });
    client.onNotification("dlm/status", (params: unknown) => {
      const status = readStatus(params);
      if (status) {
        this.status.told(status);
      }
    });
    client.onNotification("window/showMessage", (params: { type?: number; message?: string }) => {
      this.show(params);
    });
    return client;
  }

  /** Shows a message of the server; where it names a command of its own, with a button for it. */
  private show(params: { type?: number; message?: string }): void {
    const message = params.message ?? "";
    if (message.includes("dlm.pullModel")) {
      const offer =
        "Only the small bundled model is here. A real one makes suggestions worth reading.";
      void vscode.window.showInformationMessage(offer, "Get a Model").then((chosen) => {
        if (chosen !== undefined) {
          void vscode.commands.executeCommand("dlm.getModel");
        }
      });
    } else if (params.type === 1) {
      void vscode.window.showErrorMessage(message);
    } else if (params.type === 2) {
      void vscode.window.showWarningMessage(message);
    } else {
      void vscode.window.showInformationMessage(message);
    }
  }

  /** The server's process has ended; one that was not to end is started again, a few times. */
  private closed(): void {
    this.listener.lost();
    if (this.isStopping || this.isStarting) {
      return; // Whoever stops or starts it tells what came of it.
    }
    const now = Date.now();
    this.crashes = [...this.crashes.filter((at) => now - at < RESTARTS_WITHIN), now];
    const why = "The language server has ended unexpectedly.";
    this.status.failed(why);
    if (this.crashes.length <= RESTARTS_MAX) {
      this.log.warn(`${why} It is started again.`);
      void this.inTurn(async () => {
        await this.doStop();
        await this.doStart();
      });
      return;
    }
    void this.inTurn(() => this.doStop()).then(() => {
      this.status.failed(`${why} It is not started again by itself.`);
    });
    this.sayFailed(`${why} It is not started again by itself.`);
  }

  private sayFailed(message: string): void {
    this.log.error(message);
    void vscode.window.showErrorMessage(message, "Restart", "Show Log").then((chosen) => {
      if (chosen === "Restart") {
        void this.restart();
      } else if (chosen === "Show Log") {
        this.log.show();
      }
    });
  }

  private offerToInstall(why: string): void {
    if (this.offered) {
      return;
    }
    this.offered = true;
    const buttons = ["Install", "Choose the Program"];
    void vscode.window.showWarningMessage(why, ...buttons).then((chosen) => {
      if (chosen === "Install") {
        void vscode.commands.executeCommand("dlm.installServer");
      } else if (chosen !== undefined) {
        void vscode.commands.executeCommand("workbench.action.openSettings", "dlm.server.path");
      }
    });
  }
}
