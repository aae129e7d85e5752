"""From `podman:///var/lib/containers/storage` in the configuration to the runtime that it names. Opens nothing yet."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pycilium.agent.runtimes.container import Runtime
from pycilium.agent.runtimes.containerd import Containerd
from pycilium.agent.runtimes.docker import Docker
from pycilium.agent.runtimes.podman import Podman
from pycilium.errors import ConfigError

DEFAULT = [
    "podman:///var/lib/containers/storage",
    "containerd:///run/containerd/containerd.sock",
    "docker:///run/docker.sock",
]
"""Where Debian, Fedora and the projects themselves put them."""

_KINDS: dict[str, Callable[[str], Runtime]] = {"podman": Podman, "containerd": Containerd, "docker": Docker}


def open_runtimes(urls: Sequence[str]) -> list[Runtime]:
    """ConfigError for what names none."""
    return [_opened(url) for url in urls]


def _opened(url: str) -> Runtime:
    kind, separator, path = url.partition("://")
    if not separator or kind not in _KINDS or not path.startswith("/"):
        kinds = " or ".join(f"{known}:///PATH" for known in _KINDS)
        raise ConfigError(f"container_runtimes: {url!r} names no runtime, such as {kinds}")
    return _KINDS[kind](path)
