/** The Python that the user has selected for the workspace, as the Python extension tells it. */

import * as path from "node:path";
import * as vscode from "vscode";

interface PythonApi {
  readonly environments?: {
    getActiveEnvironmentPath?: (scope?: vscode.Uri) => { path?: string } | undefined;
  };
}

const WAIT = 3000; // milliseconds

/** The folder of the selected Python's programs; undefined without the Python extension. */
export async function pythonOf(): Promise<string | undefined> {
  const extension = vscode.extensions.getExtension<PythonApi>("ms-python.python");
  if (!extension) {
    return undefined;
  }
  try {
    const late = new Promise<undefined>((resolve) => setTimeout(resolve, WAIT, undefined));
    const api = await Promise.race([extension.activate(), late]);
    const folder = vscode.workspace.workspaceFolders?.[0]?.uri;
    const program = api?.environments?.getActiveEnvironmentPath?.(folder)?.path;
    return program === undefined || !path.isAbsolute(program) ? undefined : path.dirname(program);
  } catch {
    return undefined; // Without an answer of the other extension ours goes on without it.
  }
}
