"""`-o jsonpath={.a.b[0]}`: text with paths in braces, each replaced by what it leads to. Pure.

A small part of kubectl's language, the one that scripts of Cilium use; anything else is refused by its name.
What is not there leaves nothing, and several values are parted by spaces.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from pycilium.errors import ConfigError

_EXPRESSION = re.compile(r"\{([^{}]*)\}")
_STEP = re.compile(r"\.(?P<name>[\w-]+)|\['(?P<quoted>[^']+)'\]|\[(?P<index>\d+)\]|(?P<all>\[\*\]|\.\*)")


def rendered(template: str, value: object) -> str:
    """The template with its paths filled from `value`; ConfigError for a path that is none."""
    text = _EXPRESSION.sub(lambda found: " ".join(_texts(found[1], value)), template)
    if template.count("{") != len(_EXPRESSION.findall(template)):
        raise ConfigError(f"jsonpath {template!r}: a brace is not closed; such as {{.status.state}} is meant")
    return text


def _texts(path: str, value: object) -> Iterator[str]:
    for found in _followed(path, value):
        yield found if isinstance(found, str) else msgspec.json.encode(found).decode()


def _followed(path: str, value: object) -> list[Any]:
    """What the path leads to, all branches of `*`."""
    found, rest = [value], path.strip().removeprefix("$")
    while rest not in ("", "."):
        step = _STEP.match(rest)
        if step is None:
            raise ConfigError(f"jsonpath {{{path}}}: {rest!r} is not understood; such as {{.status.state}} is meant")
        found = [each for one in found for each in _stepped(one, step)]
        rest = rest[step.end() :]
    return found


def _stepped(value: Any, step: re.Match[str]) -> list[Any]:
    if step["all"]:
        return list(value.values()) if isinstance(value, dict) else list(value) if isinstance(value, list) else []
    if step["index"]:
        number = int(step["index"])
        return [value[number]] if isinstance(value, list) and number < len(value) else []
    name = step["name"] or step["quoted"]
    return [value[name]] if isinstance(value, dict) and name in value else []
