"""Which release a version means: one of ours, or a Cilium's, which stands for ours that is compatible with it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pycilium import __version__
from pycilium.errors import ConfigError

RELEASES = (__version__,)
"""Those that this command can install: it brings the manifests of one, its own."""
COMPATIBLE_FIRST, COMPATIBLE_LAST = (1, 16), (1, 19)
"""Cilium's minor releases whose names, values and clients ours agree with."""
CILIUM = "1.19.5"
"""The Cilium that clients take us for."""

_VERSION = re.compile(r"v?(\d+)\.(\d+)(?:\.(\d+))?([-+].*)?")


def is_version(text: str) -> bool:
    """Whether a release could be called so."""
    return _VERSION.fullmatch(text) is not None


def for_clients(release: str = __version__) -> str:
    """A release as Cilium's clients read it: what they compare is the version of the Cilium that it is taken for."""
    return f"{CILIUM}+pycilium.{release}"


@dataclass(frozen=True, slots=True)
class Chosen:
    """A release of ours, and why it is that."""

    release: str
    why: str


def chosen(version: str) -> Chosen:
    """The release that `version` means, "" the newest; ConfigError if it means none."""
    if not version:
        return Chosen(RELEASES[-1], "the newest")
    found = _VERSION.fullmatch(version)
    if found is None:
        raise ConfigError(f"--version {version!r} is no version such as {RELEASES[-1]} or {CILIUM}")
    if version.removeprefix("v") in RELEASES:
        return Chosen(version.removeprefix("v"), "as asked for")
    if COMPATIBLE_FIRST <= (int(found[1]), int(found[2])) <= COMPATIBLE_LAST:
        return Chosen(RELEASES[-1], f"compatible with Cilium {version.removeprefix('v')}")
    raise ConfigError(f"--version {version!r}: there is no such release; `cilium install --list-versions` has all")


def listed() -> list[str]:
    """Everything that `--version` takes, in words."""
    first, last = (".".join(map(str, minor)) for minor in (COMPATIBLE_FIRST, COMPATIBLE_LAST))
    default = " (default)"
    ours = [f"{release}{default if release == RELEASES[-1] else ''}" for release in reversed(RELEASES)]
    return [*ours, f"{first}.x to {last}.x of Cilium, as {RELEASES[-1]}"]
