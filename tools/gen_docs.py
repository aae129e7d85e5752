#!/usr/bin/env python3
"""Fill the generated tables of docs/datapath.md (maps, programs, drop reasons) and docs/install.md (rights, values).

A table stands between `<!-- generated: NAME -->` and `<!-- end -->`; the rest of the page is written by hand.
`--check` writes nothing and fails if a page is not what would be written.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from pycilium.install.kubernetes_access import GRANTS
from pycilium.install.settings import paths
from pycilium.install.templates import as_text, at
from pycilium.install.values import MEANINGS, defaults
from pycilium.model.drop_reason import DropReason

ROOT = Path(__file__).resolve().parent.parent
PAGES = (ROOT / "docs" / "datapath.md", ROOT / "docs" / "install.md")
BPF = ROOT / "bpf"

_COMMENT = r"/\*(?P<comment>(?:[^*]|\*(?!/))*)\*/\n"
_MAP = re.compile(rf"(?:{_COMMENT})?struct \{{\n(?P<body>(?:[^}}])*)\}} (?P<name>\w+) SEC\(\"\.maps\"\);")
_PROGRAM = re.compile(r"SEC\(\"(?P<section>[^\"]+)\"\)\s*\n?int (?P<name>\w+)\(")
_HEADER = re.compile(rf"\A(?:/[/*] SPDX[^\n]*\n){_COMMENT}")
_REASON = re.compile(r"DROP_\w+ = (?P<number>\d+),(?: */\* (?P<comment>.*?) \*/)?")


def maps_table() -> list[str]:
    """One row per map: what it is, and who writes it."""
    rows = []
    for path in sorted((BPF / "maps").glob("*.h")):
        text = path.read_text()
        header = _HEADER.match(text)
        for match in _MAP.finditer(text):
            comment = match["comment"] or (header["comment"] if header else "")
            rows.append(
                (
                    f"`{match['name']}`",
                    _field(match["body"], "type").removeprefix("BPF_MAP_TYPE_").lower(),
                    _typed(match["body"], "key"),
                    _typed(match["body"], "value"),
                    _field(match["body"], "max_entries"),
                    _one_line(comment),
                )
            )
    return _table(("map", "type", "key", "value", "size", "what, who writes it, and when it is full"), rows)


def programs_table() -> list[str]:
    """One row per program."""
    rows = []
    for path in sorted((BPF / "prog").glob("*.bpf.c")):
        text = path.read_text()
        header = _HEADER.match(text)
        about = header["comment"].partition("\n *\n")[0] if header else ""
        rows += [
            (
                f"`{match['name']}`",
                f"`{match['section']}`",
                f"`bpf/prog/{path.name}`",
                _one_line(_comment_above(text, match.start()) or about),
            )
            for match in _PROGRAM.finditer(text)
        ]
    return _table(("program", "hook", "file", "what"), rows)


def drop_reasons_table() -> list[str]:
    """The drop reasons that our programs give, in Hubble's numbers and words."""
    rows = []
    for match in _REASON.finditer((BPF / "abi" / "drop_reason.h").read_text()):
        reason = DropReason(int(match["number"]))
        rows.append((match["number"], f"`{reason.name}`", reason.text, match["comment"] or ""))
    return _table(("number", "Hubble's name", "text", "note"), rows)


def rights_table() -> list[str]:
    """One row per rule of a role."""
    rows = []
    for grant in GRANTS:
        where = "everywhere" if grant.namespace is None else grant.namespace
        for rule in grant.rules:
            names = f" ({', '.join(rule.names)})" if rule.names else ""
            rows.append(
                (
                    grant.account,
                    where if isinstance(where, str) else "its namespace",
                    f"{', '.join(f'`{each}`' for each in rule.resources)}{names}",
                    " ".join(f"`{verb}`" for verb in rule.verbs),
                    rule.why,
                )
            )
    return _table(("who", "where", "what", "may", "why"), rows)


def values_table() -> list[str]:
    """One row per value that has a meaning of its own."""
    plain = defaults()
    shown = [(path, at(plain, path)) for path in paths(plain) if path in MEANINGS]
    rows = [
        (f"`{path}`", "" if isinstance(value, dict) and value else f"`{as_text(value)}`", MEANINGS[path])
        for path, value in shown
    ]
    return _table(("value", "default", "meaning"), rows)


TABLES: dict[str, Callable[[], list[str]]] = {
    "maps": maps_table,
    "programs": programs_table,
    "drop reasons": drop_reasons_table,
    "rights": rights_table,
    "values": values_table,
}


def filled(page: str) -> str:
    """The page with every table made anew. Unknown or unclosed markers are errors."""
    lines: list[str] = []
    inside = False
    for line in page.splitlines():
        if match := re.fullmatch(r"<!-- generated: (.+) -->", line):
            lines += [line, *TABLES[match[1]]()]
            inside = True
        elif line == "<!-- end -->":
            lines.append(line)
            inside = False
        elif not inside:
            lines.append(line)
    if inside:
        sys.exit("a generated table has no end")
    return "\n".join(lines) + "\n"


def _table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    return [line(headers), line(["---"] * len(headers)), *(line(row) for row in rows)]


def _field(body: str, name: str) -> str:
    match = re.search(rf"__uint\({name}, (.+?)\);", body)
    return match[1] if match else ""


def _typed(body: str, name: str) -> str:
    match = re.search(rf"__type\({name}, (?:struct )?(\w+)\);", body)
    return f"`{match[1]}`" if match else ""


def _comment_above(text: str, position: int) -> str:
    """The comment that ends just before `position`, if one does."""
    before = text[:position].rstrip()
    if not before.endswith("*/"):
        return ""
    start = before.rfind("/*")
    return before[start + 2 : -2]


def _one_line(comment: str) -> str:
    return " ".join(line.strip().lstrip("*").strip() for line in comment.strip().splitlines()).strip()


def main() -> None:
    parser = argparse.ArgumentParser(description="fill the generated tables of the documentation")
    parser.add_argument("--check", action="store_true", help="only say whether the page is up to date")
    check = parser.parse_args().check
    for path in PAGES:
        page = path.read_text()
        wanted = filled(page)
        if check and page != wanted:
            sys.exit(f"{path.relative_to(ROOT)} is not up to date: run `make gen`")
        if not check:
            path.write_text(wanted)


if __name__ == "__main__":
    main()
