"""`python -m vidan.supervisor`."""

from __future__ import annotations

import sys

from vidan.supervisor.supervisor import main

if __name__ == "__main__":
    sys.exit(main())
