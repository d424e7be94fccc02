"""Entry point of `python -m dlm_lsp.evaluation.latency`."""

import sys

from dlm_lsp.evaluation.latency.run import main

sys.exit(main())
