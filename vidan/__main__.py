"""`python -m vidan`: the same as the command `vidan`."""

import sys

if __name__ == "__main__" and not sys.flags.safe_path:
    del sys.path[0]  # the working folder, which `python -m` puts before all libraries

from vidan.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
