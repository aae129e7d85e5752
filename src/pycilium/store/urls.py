"""URLs of stores as they may be shown: in errors, status and logs."""

from __future__ import annotations

import re


def hide_password(url: str) -> str:
    """`url` without its password, also when it is not a URL at all."""
    return re.sub(r"(://[^:/@]*):.*@", r"\1:***@", url, flags=re.DOTALL)
