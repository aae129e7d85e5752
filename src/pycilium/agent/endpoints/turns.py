"""Whose turn it is: what is done to one attachment is done one after another, to different ones side by side."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator


class Turns:
    """Of one node. A lock lives for as long as somebody holds it or waits for it."""

    def __init__(self) -> None:
        self._last_call_s = 0.0
        self._callers: Counter[str] = Counter()
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    @property
    def quiet_for_s(self) -> float:
        """Since when nobody has asked for anything, in seconds."""
        return time.monotonic() - self._last_call_s

    @contextlib.asynccontextmanager
    async def of(self, attachment: str) -> AsyncIterator[None]:
        """Within, nobody else does anything to the attachment."""
        self._last_call_s = time.monotonic()
        self._callers[attachment] += 1
        try:
            async with self._locks[attachment]:
                yield
        finally:
            self._last_call_s = time.monotonic()
            self._callers[attachment] -= 1
            if not self._callers[attachment]:
                del self._callers[attachment], self._locks[attachment]
