"""What somebody who is not root meets, for tests that root runs too."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

_NOBODY = 65534


@contextmanager
def unprivileged() -> Iterator[None]:
    """Within the block this process (all of its threads) has no more rights than anybody."""
    before = os.geteuid()
    if before != 0:
        yield
        return
    os.seteuid(_NOBODY)
    try:
        yield
    finally:
        os.seteuid(before)
