"""Single keys of cilium-config, set while an installation runs: what may be, and by which value it would last.

Each key that varies comes from one value of the release, whose type says what it may be. Pure.
Invariant: what is taken here, agents and operators take too.
"""

from __future__ import annotations

from typing import Any

from pycilium.errors import ConfigError
from pycilium.install import settings
from pycilium.install.kubernetes_config import FIXED, config_map
from pycilium.install.templates import Joined, Json, Text, When
from pycilium.model.resources.checks import did_you_mean


def check_known(key: str) -> None:
    """ConfigError for a key that nobody reads, with the nearest that is read."""
    if key not in config_map()["data"]:
        raise ConfigError(f"cilium-config has no key {key!r}{did_you_mean(key, config_map()['data'])}")


def as_option(key: str, text: str) -> str:
    """The `--set` option by which a release keeps the key so; ConfigError if the key cannot be that."""
    check_known(key)
    hole: Any = config_map()["data"][key]
    if isinstance(hole, When) and isinstance(hole.then, (Text, Joined)):
        hole = hole.then
    if key in FIXED:
        raise ConfigError(f"{key} cannot be set: only {FIXED[key]!r} is built yet")
    if not isinstance(hole, (Text, Joined)):
        of = f"follows from the value {hole.path}" if isinstance(hole, (Json, When)) else "has one meaning"
        raise ConfigError(f"{key} cannot be set: it {of}")
    if isinstance(hole, Joined):
        option = f"{hole.path}={{{','.join(map(_escaped, text.split(hole.separator) if text else []))}}}"
    else:
        option = f"{hole.path}={_escaped(text)}"
    _check(key, text, option)
    return option


def _check(key: str, text: str, option: str) -> None:
    """By the value's type; a text that looks like a number may be meant as a text."""
    try:
        settings.values_of(settings.from_options([option]))
    except ConfigError as error:
        try:
            settings.values_of(settings.from_options([option], as_strings=True))
        except ConfigError:
            raise ConfigError(f"{key} cannot be {text!r}: {error}") from error


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace(",", "\\,")
