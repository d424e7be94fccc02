/**
 * Where the language server's program is. One that lies inside the workspace is never run, unless
 * the user trusts the workspace: a repository from a stranger may bring its own.
 */

import * as path from "node:path";

/** What finding a program needs of the machine. */
export interface Machine {
  readonly platform: string;
  readonly pathVariable: string;
  readonly home: string;
  isExecutable(file: string): boolean;
  /** The file that a link leads to; the path itself where there is none. */
  real(file: string): string;
}

/** What is asked for. */
export interface Wanted {
  /** The setting `dlm.server.path`. */
  readonly path: string | undefined;
  readonly workspaces: readonly string[];
  readonly isTrusted: boolean;
  /** The folder of the Python that is selected in the workspace. */
  readonly pythonFolder: string | undefined;
  /** The environment of the extension's own. */
  readonly environment: string;
}

export type Found =
  | { readonly program: string; readonly origin: string }
  | { readonly program: undefined; readonly why: string };

function names(platform: string): string[] {
  return platform === "win32" ? ["dlm-lsp.exe"] : ["dlm-lsp"];
}

/** The folder of an environment's programs. */
export function binFolder(environment: string, platform: string): string {
  return path.join(environment, platform === "win32" ? "Scripts" : "bin");
}

function isWithin(file: string, folder: string): boolean {
  const relative = path.relative(folder, file);
  return relative === "" || (!relative.startsWith("..") && !path.isAbsolute(relative));
}

function isInside(file: string, wanted: Wanted, machine: Machine): boolean {
  const home = machine.real(machine.home);
  return wanted.workspaces.some((folder) => {
    const root = machine.real(folder);
    // A workspace that holds the home folder would forbid everything.
    return !isWithin(home, root) && (isWithin(file, root) || isWithin(machine.real(file), root));
  });
}

/** Finds the program: by setting, in the selected Python, on PATH, in the extension's own. */
export function findProgram(wanted: Wanted, machine: Machine): Found {
  if (wanted.path !== undefined) {
    return machine.isExecutable(wanted.path)
      ? { program: wanted.path, origin: "the setting dlm.server.path" }
      : {
          program: undefined,
          why: `${wanted.path}, which dlm.server.path names, cannot be run.`,
        };
  }
  const candidates: { folder: string; origin: string; isOwn?: boolean }[] = [];
  if (wanted.isTrusted && wanted.pythonFolder !== undefined) {
    const origin = "the workspace's Python environment";
    candidates.push({ folder: wanted.pythonFolder, origin });
  }
  const delimiter = machine.platform === "win32" ? ";" : ":";
  for (const folder of machine.pathVariable.split(delimiter)) {
    // A relative entry of PATH means whatever folder one happens to be in.
    if (path.isAbsolute(folder)) {
      candidates.push({ folder, origin: "PATH" });
    }
  }
  const own = binFolder(wanted.environment, machine.platform);
  candidates.push({ folder: own, origin: "the extension's own environment", isOwn: true });
  let refused: string | undefined;
  for (const { folder, origin, isOwn } of candidates) {
    for (const name of names(machine.platform)) {
      const program = path.join(folder, name);
      if (!machine.isExecutable(program)) {
        continue;
      }
      if (isOwn || wanted.isTrusted || !isInside(program, wanted, machine)) {
        return { program, origin };
      }
      refused ??= program;
    }
  }
  const why = refused
    ? `${refused} lies inside the workspace, which is not trusted, and is not run.`
    : "The language server dlm-lsp is not installed.";
  return { program: undefined, why };
}
