"""Reads single keys from a terminal while its screen shows a display."""

from __future__ import annotations

import os
import select
import sys
import time
from types import TracebackType


class Keys:
    """Within the block keys arrive without Enter and are not echoed; Ctrl-C works as always.

    If stdin is not a terminal, no key is ever pressed.
    """

    def __enter__(self) -> Keys:
        """Prepare the terminal."""
        self._before = None
        self._open = sys.stdin is not None and sys.stdin.isatty()
        if self._open:
            import termios
            import tty

            self._before = termios.tcgetattr(sys.stdin)
            tty.setcbreak(sys.stdin)
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        """Restore the terminal's settings."""
        if self._before is not None:
            import termios

            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._before)

    def pressed(self, key: str, *, within: float) -> bool:
        """Wait for `within` seconds at most; return True as soon as the key is pressed."""
        until = time.monotonic() + within
        while (left := until - time.monotonic()) > 0:
            if not self._open:
                time.sleep(left)
                continue
            ready, _, _ = select.select([sys.stdin], [], [], left)
            if ready:
                typed = os.read(sys.stdin.fileno(), 64)
                if not typed:
                    self._open = False  # the terminal was closed
                if key.encode() in typed.lower():
                    return True
        return False
