"""A mounted ConfigMap: one file per key, read strictly. Shared by agent and operator; what keys mean is theirs."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import GenericAlias
from typing import TypeVar

import msgspec

from pycilium.errors import ConfigError
from pycilium.install.kubernetes_config import FIXED, config_map
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
        known = KNOWN | OF_THE_NODE
        for key, text in texts.items():
            if key not in known:
                raise self.wrong(key, f"is unknown{did_you_mean(key, known)}")
            if key in FIXED and text != FIXED[key]:
                raise self.wrong(key, f"is {text!r}; only {FIXED[key]!r} is built yet")

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
            raise ConfigError(f"{self._source}: {error}") from error

    def wrong(self, key: str, why: str) -> ConfigError:
        return ConfigError(f"{self._source}: {key} {why}")
