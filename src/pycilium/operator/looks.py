"""Work that looks at everything once in a while: one look, what follows from it, and then nothing until the next."""

from __future__ import annotations

import asyncio
from typing import Protocol


class Look(Protocol):
    """What one kind of work sees and does."""

    @property
    def interval_s(self) -> float:
        """How long nothing happens between two looks."""
        ...

    async def once(self) -> None:
        """One look, and what follows from it."""
        ...


async def repeat(look: Look) -> None:
    """Look again and again, until cancelled, or until this operator leads no longer."""
    while True:
        await look.once()
        await asyncio.sleep(look.interval_s)
