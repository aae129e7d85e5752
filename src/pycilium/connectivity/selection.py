"""Which tests and scenarios a run takes: `--test` patterns. Pure.

`PATTERN` takes what it is found in, `!PATTERN` leaves that out; both are regular expressions, searched in `test` and in
`test/scenario`; several may stand together with commas between. Without one that takes, all is taken. Invariant: what
is left out stays out, whatever takes it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from pycilium.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Selection:
    """Patterns that take and patterns that leave out."""

    taking: tuple[re.Pattern[str], ...] = ()
    leaving: tuple[re.Pattern[str], ...] = ()

    @classmethod
    def of(cls, patterns: Iterable[str]) -> Selection:
        """ConfigError for what is no regular expression."""
        taking: list[re.Pattern[str]] = []
        leaving: list[re.Pattern[str]] = []
        for pattern in (one for given in patterns for one in given.split(",")):
            text = pattern.removeprefix("!")
            if not text:
                raise ConfigError(
                    f"--test {pattern!r}: is empty; use a regular expression, with ! before it to leave out"
                )
            try:
                compiled = re.compile(text)
            except re.error as error:
                raise ConfigError(f"--test {pattern!r}: is no regular expression: {error}") from error
            (leaving if pattern.startswith("!") else taking).append(compiled)
        return cls(tuple(taking), tuple(leaving))

    def scenarios(self, test: str, scenarios: Iterable[str]) -> tuple[str, ...]:
        """Those of the test's scenarios that are taken; none: the test is not."""
        if _found(self.leaving, test):
            return ()
        whole = not self.taking or _found(self.taking, test)
        return tuple(
            scenario
            for scenario in scenarios
            if (whole or _found(self.taking, f"{test}/{scenario}")) and not _found(self.leaving, f"{test}/{scenario}")
        )


def _found(patterns: Iterable[re.Pattern[str]], text: str) -> bool:
    return any(pattern.search(text) for pattern in patterns)
