"""What a client saw, in words that mean the same on both sides. Pure.

Addresses become names: backends are pods by name, and the source that a backend saw is `client` if it is one of the
client's own addresses, else the name of the node or pod that has it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True, slots=True, order=True)
class Seen:
    """What came of some tries."""

    outcomes: tuple[str, ...]
    """`reached`, `refused`, `timeout`, `reset`, `ended`, or the name of another error."""
    backends: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    shown: tuple[str, ...] = ()
    """Other addresses than the one that was asked, which the client's socket gave for the one that answered."""

    @property
    def by_number(self) -> Seen:
        """Where chance decides who answers: how many they are instead of who, and nothing that follows from who it is."""
        many = ("always the same one" if len(self.backends) == 1 else "different ones",) if self.backends else ()
        return replace(self, backends=many, sources=())

    def __str__(self) -> str:
        text = " or ".join(self.outcomes)
        if self.backends:
            text = f"{text} {', '.join(self.backends)}"
        if self.sources:
            text = f"{text} as {' or '.join(self.sources)}"
        return f"{text}, answered by {', '.join(self.shown)}" if self.shown else text


def seen(answers: Sequence[Mapping[str, Any]], client: str, names: Mapping[str, str]) -> Seen:
    """`names`: who has which address; `client`: the name of who asked."""

    def of(word: str) -> tuple[str, ...]:
        return tuple(sorted({answer[word] for answer in answers if word in answer}))

    def named(address: str) -> str:
        name = names.get(address, address)
        return "client" if name == client else name

    return Seen(of("outcome"), of("backend"), tuple(sorted({named(each) for each in of("source")})), of("shown"))
