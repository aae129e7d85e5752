"""A mounted ConfigMap: one file per key, read strictly. Shared by agent and operator; what keys mean is theirs.

While a DaemonSet rolls, a node that reboots starts its agent of before with the keys of the release after. Keys that it
does not know are then set aside by name, for without an agent its pods have no network. Whatever it knows must be
understood all the same: to guess at a value could leave undone what somebody relies on.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import GenericAlias
from typing import TypeVar

import msgspec

from pycilium import __version__
from pycilium.errors import ConfigError
from pycilium.install.kubernetes_config import FIXED, RELEASE, config_map
from pycilium.install.versions import is_version
from pycilium.model.resources.checks import did_you_mean

T = TypeVar("T")
KNOWN = frozenset(config_map()["data"])
"""Keys of cilium-config. What agents read of it, operators need not."""
OF_THE_NODE = frozenset(("ipv4-range", "ipv6-range"))
"""What `cilium-dbg build-config` adds."""
_DURATION = re.compile(r"(\d+)(h|ms|m|s)")
_SECONDS = {"h": 3600, "m": 60, "s": 1, "ms": 0.001}


class Settings:
    """Keys and their texts; every reading names the key if it cannot be."""

    def __init__(self, texts: Mapping[str, str], source: str) -> None:
        """ConfigError for a key that is unknown, or one whose fixed meaning is another."""
        self._texts, self._source = texts, source
        self._release = texts.get(RELEASE, __version__)
        if not is_version(self._release):
            raise self.wrong(RELEASE, f"is {self._release!r}, which is no version such as {__version__}")
        self.warnings = tuple(self._set_aside(key for key in texts if key not in KNOWN | OF_THE_NODE))
        for key in FIXED.keys() & texts.keys():
            if texts[key] != FIXED[key]:
                raise self.wrong(key, f"is {texts[key]!r}; only {FIXED[key]!r} is built yet")

    def _set_aside(self, unknown: Iterable[str]) -> Iterable[str]:
        """A sentence about keys of another release; ConfigError for one that somebody wrote wrong."""
        keys = sorted(unknown)
        if keys and self._release == __version__:
            raise self.wrong(keys[0], f"is unknown{did_you_mean(keys[0], KNOWN | OF_THE_NODE)}")
        if keys:
            yield (
                f"{self._source}: written by release {self._release}, and this is {__version__}: set aside what is "
                f"not known here: {', '.join(keys)}"
            )

    @classmethod
    def of_folder(cls, folder: str | Path) -> Settings:
        """ConfigError if it cannot be read."""
        try:
            files = [path for path in Path(folder).iterdir() if not path.name.startswith(".") and path.is_file()]
            return cls({path.name: path.read_text(encoding="utf-8").strip() for path in files}, str(folder))
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{folder}: cannot be read: {getattr(error, 'strerror', None) or error}") from error

    def text(self, key: str, default: str = "") -> str:
        return self._texts.get(key, default)

    def words(self, key: str) -> list[str]:
        return self.text(key).split()

    def flag(self, key: str, default: bool) -> bool:
        text = self.text(key)
        if text not in ("", "true", "false"):
            raise self.wrong(key, f"is {text!r}; it must be true or false")
        return text == "true" if text else default

    def number(self, key: str, default: int) -> int:
        text = self.text(key)
        if text and not (text.isascii() and text.isdigit()):
            raise self.wrong(key, f"is {text!r}, which is no number")
        return int(text) if text else default

    def seconds(self, key: str, default: float) -> float:
        """A duration such as 15m0s."""
        text = self.text(key)
        if text and not re.fullmatch(rf"({_DURATION.pattern})+", text):
            raise self.wrong(key, f"is {text!r}, which is no time such as 15m or 1h30m")
        return float(sum(int(count) * _SECONDS[unit] for count, unit in _DURATION.findall(text))) if text else default

    def one_of(self, key: str, words: Mapping[str, T], default: str) -> T:
        """What the key's word stands for."""
        text = self.text(key) or default
        if text not in words:
            raise self.wrong(key, f"is {text!r}; it must be one of {', '.join(words)}")
        return words[text]

    def objects(self, key: str, kind: type[T]) -> tuple[T, ...]:
        """A list of objects, written as JSON."""
        try:
            found: tuple[T, ...] = msgspec.json.decode(self.text(key) or "[]", type=GenericAlias(tuple, (kind, ...)))
        except msgspec.DecodeError as error:
            raise self.wrong(key, f"is {self.text(key)!r}: {error}") from error
        return found

    def checked(self, check: Callable[[], T]) -> T:
        """What `check` gives; its ConfigError names this folder."""
        try:
            return check()
        except ConfigError as error:
            raise self.refused(str(error)) from error

    def wrong(self, key: str, why: str) -> ConfigError:
        return self.refused(f"{key} {why}")

    def refused(self, why: str) -> ConfigError:
        """With where the keys are from, and whether it is another release that understands them."""
        is_of_another = is_version(self._release) and self._release != __version__
        of_another = (
            f" ({self._source} was written by release {self._release}, and this is {__version__}: with an image of "
            "that release it starts)"
        )
        return ConfigError(f"{self._source}: {why}{of_another if is_of_another else ''}")
