"""Where our Services differ from kube-proxy's, each with its reason: the source of docs/services-vs-kube-proxy.md.

A case may differ only if an entry of this list covers it, and an entry that covers nothing any more is a fault too.
Where kube-proxy's two modes differ from each other, either is right.

    python -m tests.e2e.kube_proxy.differences      writes the list into the page
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.kube_proxy.cases import Case

DOCUMENT = Path(__file__).parents[3] / "docs" / "services-vs-kube-proxy.md"
BEGIN, END = "<!-- differences: begin -->", "<!-- differences: end -->"


@dataclass(frozen=True, slots=True)
class Difference:
    """One explained difference. `covers` is told the case, what kube-proxy's clients saw, and what ours did."""

    what: str
    kube_proxy: str
    ours: str
    why: str
    covers: Callable[[Case, str, str], bool]


DIFFERENCES: tuple[Difference, ...] = ()


@dataclass(frozen=True, slots=True)
class Comparison:
    """What came of comparing: cases that nothing explains, and how many each entry of the list explains."""

    unexplained: tuple[str, ...]
    explained: Mapping[str, int]
    alike: int

    def __str__(self) -> str:
        lines = [f"{self.alike} alike", *(f"{count} explained: {what}" for what, count in self.explained.items())]
        return "\n".join([*lines, f"{len(self.unexplained)} unexplained", *self.unexplained])


def compare(ours: Mapping[Case, object], theirs: Sequence[Mapping[Case, object]]) -> Comparison:
    """`theirs`: by each of kube-proxy's modes."""
    unexplained: list[str] = []
    explained = {each.what: 0 for each in DIFFERENCES}
    alike = 0
    for case, seen in ours.items():
        wanted = dict.fromkeys(str(each[case]) for each in theirs)
        if str(seen) in wanted:
            alike += 1
            continue
        reasons = [each for each in DIFFERENCES if any(each.covers(case, one, str(seen)) for one in wanted)]
        for each in reasons:
            explained[each.what] += 1
        if not reasons:
            unexplained.append(f"{case}\n    kube-proxy: {' / '.join(wanted)}\n    pycilium:   {seen}")
    return Comparison(tuple(unexplained), explained, alike)


def markdown() -> str:
    parts = []
    for each in DIFFERENCES:
        parts += [f"### {each.what}", ""]
        parts += [f"- kube-proxy: {each.kube_proxy}", f"- pycilium: {each.ours}", f"- Why: {each.why}", ""]
    return "\n".join(parts)


def page() -> str:
    """The document as it should be."""
    before, _, rest = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise RuntimeError(f"{DOCUMENT}: the lines {BEGIN} and {END} are missing")
    return f"{before}{BEGIN}\n\n{markdown()}\n{END}{after}"


def main() -> int:
    DOCUMENT.write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
