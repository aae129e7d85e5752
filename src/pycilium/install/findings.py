"""What a look before installing finds: one line each, with what to change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. An error stops an installation; a warning does not."""

    level: Literal["ok", "warning", "error"]
    what: str

    def __str__(self) -> str:
        return f"{self.level}: {self.what}"
