"""`python -P -m dlm_lsp` runs the program; -P ignores folders named `engine` in the current one."""

import sys

from dlm_lsp.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
