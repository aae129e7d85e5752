"""From what users set (`--set`, `--values`) to values: Helm's syntax and merging, then every name and type checked."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from msgspec import inspect

from pycilium.errors import ConfigError
from pycilium.install.json_schemas import HELM, schema_of
from pycilium.install.templates import as_text, at
from pycilium.install.values import Plain, Values, defaults
from pycilium.model.resources.checks import did_you_mean

_STEP = re.compile(r"((?:[^.\[\]\\=]|\\.)+)|\[(\d+)\]")
_WORDS: Mapping[str, Any] = {"true": True, "false": False, "null": None}
_INTEGER = re.compile(r"-?(0|[1-9][0-9]*)")
_INDEX_MOST = 1000


def values_of(*layers: Mapping[str, Any]) -> Plain:
    """The defaults with what each layer sets over them; ConfigError names what is unknown or impossible."""
    plain = defaults()
    for layer in layers:
        _refuse_unknown(layer, inspect.type_info(Values), "")
        plain = merged(plain, layer)
    try:
        msgspec.convert(plain, Values)
    except msgspec.ValidationError as error:
        raise ConfigError(_in_words(str(error), plain)) from error
    return plain


def merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> Plain:
    """Mappings are merged, everything else is replaced."""
    result = dict(under)
    for key, value in over.items():
        present = result.get(key)
        if isinstance(value, Mapping) and isinstance(present, Mapping):
            result[key] = merged(present, value)
        else:
            result[key] = value
    return result


def from_file(text: str, source: str) -> Plain:
    """What a file of values sets; ConfigError."""
    import yaml

    try:
        plain = yaml.load(text, Loader=yaml.CSafeLoader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{source} is not YAML: {' '.join(str(error).split())}") from error
    if plain is None:
        return {}
    if not isinstance(plain, dict):
        raise ConfigError(f"{source} must hold a mapping of values, as `--dry-run-helm-values` prints one")
    return plain


def from_options(options: Iterable[str], *, as_strings: bool = False) -> Plain:
    """What options such as `a.b=c,d={e,f}` set, the later over the earlier; ConfigError."""
    plain: Plain = {}
    for option in options:
        for assignment in split(option, ","):
            name, equals, text = _parted(assignment)
            if not equals or not name:
                raise ConfigError(f"--set {option!r}: {assignment!r} must be NAME=VALUE, as in ipam.mode=kubernetes")
            _put(plain, _steps(name, option), _value(text, as_strings=as_strings), option)
    return plain


def split(text: str, separator: str) -> list[str]:
    """The parts of `text` between separators that stand neither in braces nor after a backslash."""
    parts, part, depth, escaped = [], "", 0, False
    for character in text:
        if escaped:
            part, escaped = part + character, False
            continue
        depth += (character == "{") - (character == "}")
        escaped = character == "\\"
        if character == separator and not depth:
            parts.append(part)
            part = ""
        else:
            part += character
    return [*parts, part] if part or not parts else parts


def _parted(assignment: str) -> tuple[str, str, str]:
    found = re.match(r"((?:[^=\\]|\\.)*)(=?)(.*)", assignment, re.DOTALL)
    return (found[1], found[2], found[3]) if found else (assignment, "", "")


def _steps(name: str, option: str) -> list[str | int]:
    steps: list[str | int] = []
    at = 0
    while at < len(name):
        found = _STEP.match(name, at)
        if found is None:
            raise ConfigError(f"--set {option!r}: {name!r} is no name such as a.b or a.b[0]")
        steps.append(int(found[2]) if found[2] is not None else _unescaped(found[1]))
        at = found.end()
        if name.startswith(".", at) and at + 1 < len(name):
            at += 1
    return steps


def _put(plain: Plain, steps: list[str | int], value: Any, option: str) -> None:
    holder: Any = plain
    for step, following in zip(steps, [*steps[1:], None], strict=True):
        if isinstance(step, int):
            if not isinstance(holder, list) or step > min(len(holder), _INDEX_MOST):
                raise ConfigError(f"--set {option!r}: [{step}] must follow a list's items from [0] on")
            if step == len(holder):
                holder.append(None)
        elif not isinstance(holder, dict):
            raise ConfigError(f"--set {option!r}: {step!r} is set below what is no mapping")
        if following is None:
            holder[step] = value
            return
        present = holder[step] if isinstance(step, int) else holder.get(step)
        if not isinstance(present, list if isinstance(following, int) else dict):
            holder[step] = [] if isinstance(following, int) else {}
        holder = holder[step]


def _value(text: str, *, as_strings: bool) -> Any:
    if text.startswith("{") and text.endswith("}"):
        inner = text[1:-1]
        return [_value(item.strip(), as_strings=as_strings) for item in split(inner, ",")] if inner else []
    if as_strings:
        return _unescaped(text)
    if text in _WORDS:
        return _WORDS[text]
    return int(text) if _INTEGER.fullmatch(text) else _unescaped(text)


def _unescaped(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text, flags=re.DOTALL)


def _refuse_unknown(layer: Mapping[str, Any], shape: inspect.Type, path: str) -> None:
    if not isinstance(shape, inspect.StructType):
        return
    known = {field.encode_name: field.type for field in shape.fields}
    for name, value in layer.items():
        full = f"{path}.{name}".lstrip(".")
        if name not in known:
            raise ConfigError(f"unknown value {full!r}{did_you_mean(str(name), known) or _elsewhere(str(name))}")
        if value is None:
            raise ConfigError(f"{full} is null: leave it out to have its default")
        if isinstance(value, Mapping):
            _refuse_unknown(value, known[name], full)


def _elsewhere(name: str) -> str:
    """Where a value of that name stands, if it is at another place."""
    found = [path for path in paths(defaults()) if path.rpartition(".")[2].lower() == name.lower()]
    return f"; there is {found[0]}" if found else "; `cilium install --dry-run-helm-values` shows what there is"


def paths(plain: Mapping[str, Any], path: str = "") -> list[str]:
    """The paths of all values."""
    found = []
    for name, value in plain.items():
        full = f"{path}.{name}".lstrip(".")
        found += [full, *(paths(value, full) if isinstance(value, Mapping) else [])]
    return found


def _in_words(reason: str, plain: Plain) -> str:
    found = re.fullmatch(r"(.*) - at `\$\.(.*)`", reason)
    if found is None:
        return reason
    path = found[2]
    shape: Any = schema_of(Values, HELM)
    for name in path.split("."):
        shape = shape.get("properties", {}).get(name, {})
    if allowed := shape.get("enum"):
        if allowed == [False]:
            return f"{path} is not built yet: it must be false"
        words = ", ".join(map(as_text, allowed))
        return f"{path}: {as_text(at(plain, path))!r} is not one of {words}"
    return f"{path}: {found[1]}"
