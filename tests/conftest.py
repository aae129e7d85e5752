"""What every tier needs."""

from __future__ import annotations

import signal

from hypothesis import settings

settings.register_profile("here", deadline=None)  # how long an example takes is the machine's matter
settings.load_profile("here")


def pytest_configure() -> None:
    """Who is started with SIGINT ignored, as a shell does in the background, passes that on to all it starts."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
