"""Examples are brought up as their first lines say: see `tests.support.examples`."""

from __future__ import annotations

from tests.support.examples import up

__all__ = ["up"]
