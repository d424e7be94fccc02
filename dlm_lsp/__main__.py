"""`python -P -m dlm_lsp`: the program, safe from folders named `engine` where it is started."""

import sys

from dlm_lsp.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
