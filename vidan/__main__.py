"""`python -m vidan`: the same as the command `vidan`."""

from __future__ import annotations

import sys

from vidan.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
