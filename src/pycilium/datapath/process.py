"""What this process asks of its C library for itself. Everything here may be left out: it only saves."""

from __future__ import annotations

import ctypes


def return_free_memory() -> None:
    """Give the system what is freed but kept for later; call it after work that took much more than what follows."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it, others need not
    if trim is not None:
        trim(ctypes.c_size_t(0))
