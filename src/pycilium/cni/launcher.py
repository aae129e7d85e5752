"""The plugin as an executable file for a runtime's plugin folder, starting as fast as Python can.

It names this very interpreter and this very package, and leaves out what Python does for programs that need site
packages (-S) or look at the user's environment (-I): a fifth of the plugin's time.
"""

from __future__ import annotations

import os
import sys

import pycilium


def write(path: str) -> None:
    """Write the executable. Replaces an older one in one step, so that a runtime never starts half a file."""
    new = f"{path}.{os.getpid()}.new"
    try:
        with open(new, "w", encoding="utf-8") as file:
            file.write(text())
            os.fchmod(file.fileno(), 0o755)
        os.replace(new, path)
    except OSError:
        if os.path.exists(new):
            os.unlink(new)
        raise


def text() -> str:
    """What `write` writes."""
    folder = os.path.dirname(os.path.dirname(os.path.abspath(pycilium.__file__)))
    lines = (
        f"#!{sys.executable} -IS",
        "import sys",
        f"sys.path.append({folder!r})",
        "from pycilium.cni.plugin import main",
        "main()",
    )
    return "\n".join(lines) + "\n"
