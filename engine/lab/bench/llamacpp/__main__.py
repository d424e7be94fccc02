"""Entry point of `python -m engine.lab.bench.llamacpp`."""

import sys

from engine.lab.bench.llamacpp.comparison import main

sys.exit(main())
