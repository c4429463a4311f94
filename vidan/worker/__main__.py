"""`python -m vidan.worker`."""

from __future__ import annotations

import sys

from vidan.worker.worker import main

if __name__ == "__main__":
    sys.exit(main())
