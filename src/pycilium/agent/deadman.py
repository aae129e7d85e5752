"""The dead-man switch: a program on a device that the node lives by stays only if the node still lives with it.

       note ──► attach on trial ──► look again and again ──► all well for the window ──► keep
     (what works)                          │
                                           └── what worked has failed persistently ──► roll back, say so
                                                                                            │
              works again soon: the change is to blame; tried once more, then left alone ◄──┤
              fails on although it is as before: tried again once all works  ◄──────────────┘

Watched are the default gateways and the store. What did not work before is not held against the change, and neither
is one lost answer, nor a look that came late because this process did not get to run. A store that fails by itself just
then must not cost the node its programs: hence the second trial. `Vigil` and `Retrial` decide and know no clock;
`Deadman` looks.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

import structlog

from pycilium.agent.link_operations import LinkOperations
from pycilium.errors import DatapathError

log = structlog.get_logger()

LOOK_EVERY_S = 0.25
LOOK_TIMEOUT_S = 0.5
LATE_S = 0.25
"""A look that took this much longer than it may says more of this process than of the node."""
PATIENCE_S = 1.0
AGAIN_S = 15.0
"""After which a change that seems to be to blame gets its second trial."""
FAILURES = 3

Check = Callable[[], Awaitable[bool]]
"""Whether something works right now; answers within LOOK_TIMEOUT_S."""


class Verdict(Enum):
    """Of a vigil."""

    WATCH = "watch"
    KEEP = "keep"
    ROLL_BACK = "roll back"


@dataclass(frozen=True, slots=True)
class Look:
    """What was found at one time; `late`: failures in it prove nothing."""

    at_s: float
    works: Mapping[str, bool]
    late: bool = False


class Vigil:
    """Watches one change from `started_s` on, by what worked `before`."""

    def __init__(self, before: frozenset[str], started_s: float, window_s: float) -> None:
        self._before, self._started_s, self._window_s = before, started_s, window_s
        self._failing: dict[str, tuple[float, int]] = {}
        """Since when, and how often in a row."""
        self._looked = False

    def take(self, look: Look) -> Verdict:
        """What follows from one more look."""
        self._looked = True
        for what in self._before:
            if look.works.get(what, False):
                self._failing.pop(what, None)
            elif not look.late:
                since, times = self._failing.get(what, (look.at_s, 0))
                self._failing[what] = since, times + 1
        if self.lost(look.at_s):
            return Verdict.ROLL_BACK
        if not self._failing and look.at_s - self._started_s >= self._window_s:
            return Verdict.KEEP
        return Verdict.WATCH

    @property
    def is_content(self) -> bool:
        """Whether it has looked, and found all that worked before."""
        return self._looked and not self._failing

    def lost(self, now_s: float) -> tuple[str, ...]:
        """What has failed so long and so often that it is not chance."""
        return tuple(
            sorted(
                what
                for what, (since, times) in self._failing.items()
                if times >= FAILURES and now_s - since >= PATIENCE_S
            )
        )

    def reason(self, now_s: float) -> str:
        """`default gateway 172.18.0.1 stopped answering 0.5 s after the change`, of all that is lost."""
        return ", ".join(
            f"{what} stopped answering {self._failing[what][0] - self._started_s:.1f} s after the change"
            for what in self.lost(now_s)
        )


class Retrial:
    """Whether what was rolled back at `since_s` may be tried again, by what was `lost` and what worked `before` it."""

    def __init__(
        self, lost: Iterable[str], before: frozenset[str], since_s: float, window_s: float, *, second: bool
    ) -> None:
        self._lost, self._before, self._since_s, self._window_s = frozenset(lost), before, since_s, window_s
        self._second = second
        """Whether the change had been blamed before."""
        self._back_s: float | None = None

    @property
    def is_blamed(self) -> bool:
        """Whether what was lost came back with the rollback."""
        return self._back_s is not None and self._back_s - self._since_s < self._window_s

    @property
    def is_final(self) -> bool:
        """Whether it will never be tried again."""
        return self.is_blamed and self._second

    def take(self, look: Look) -> bool:
        """Whether it may be tried again now."""
        if self._back_s is None and all(look.works.get(what, False) for what in self._lost):
            self._back_s = look.at_s
        if self.is_final or not all(look.works.get(what, False) for what in self._before):
            return False
        return not self.is_blamed or look.at_s - self._since_s >= AGAIN_S


class Deadman:
    """Watches over the trials of `attached`.

    `given_up` is told of each that was rolled back, with the reason; `again` is asked for a further trial of all.
    """

    def __init__(
        self,
        checks: Mapping[str, Check],
        attached: LinkOperations,
        window_s: float,
        given_up: Callable[[str, str], None],
        again: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._checks, self._attached, self._window_s = checks, attached, window_s
        self._given_up, self._again, self._clock = given_up, again, clock
        self._retrial: Retrial | None = None
        self._before: frozenset[str] = frozenset()
        self._began = asyncio.Event()
        self._began_s = 0.0
        self.problems: dict[str, str] = {}
        """What was rolled back, by the link's name, in a sentence."""
        attached.on_trial = self._trial_began

    async def note(self) -> None:
        """Remember what works: before the first change, and whenever nothing is on trial."""
        look = await self._look()
        self._before = frozenset(what for what, works in look.works.items() if works)

    async def run(self) -> None:
        """Watch until cancelled. What is on trial then is kept if the latest look spoke for it: to end is no fault."""
        while True:
            await self._began.wait()
            while self._attached.trials:
                await self._watch()
            while self._retrial is not None and not self._began.is_set():
                await self._wait_for_retrial(self._retrial)

    async def _wait_for_retrial(self, retrial: Retrial) -> None:
        """One look after a rollback."""
        await asyncio.sleep(LOOK_EVERY_S)
        if retrial.take(await self._look()):
            log.info("attachment is tried again", links=", ".join(self.problems))
            self._again()
            await self._began.wait()
        elif retrial.is_final:
            self._retrial = None

    async def _watch(self) -> None:
        """One vigil over all that is on trial; what comes to it meanwhile begins another one."""
        self._began.clear()
        vigil = Vigil(self._before, self._began_s, self._window_s)
        verdict = Verdict.WATCH
        try:
            while verdict is Verdict.WATCH and not self._began.is_set():
                await asyncio.sleep(LOOK_EVERY_S)
                verdict = vigil.take(await self._look())
        except asyncio.CancelledError:
            if vigil.is_content:
                self._keep()
            raise
        if verdict is Verdict.KEEP:
            self._keep()
            await self.note()
        elif verdict is Verdict.ROLL_BACK:
            now = self._clock()
            blamed = self._retrial is not None and self._retrial.is_blamed
            self._roll_back(vigil.reason(now))
            self._retrial = Retrial(vigil.lost(now), self._before, now, self._window_s, second=blamed)

    async def _look(self) -> Look:
        started = self._clock()
        names = list(self._checks)
        found = await asyncio.gather(*(self._checks[name]() for name in names))
        ended = self._clock()
        return Look(ended, dict(zip(names, found, strict=True)), late=ended - started > LOOK_TIMEOUT_S + LATE_S)

    def _trial_began(self) -> None:
        self._began_s = self._clock()
        self._began.set()

    def _keep(self) -> None:
        self._retrial = None
        for name in list(self._attached.trials):
            try:
                self._attached.confirm(name)
            except DatapathError as error:
                self._roll_back(str(error))
                return
            self.problems.pop(name, None)

    def _roll_back(self, reason: str) -> None:
        for name in list(self._attached.trials):
            said = f"attachment to {name} rolled back: {reason}"
            try:
                self._attached.roll_back(name)
            except DatapathError as error:
                said = f"attachment to {name} cannot be rolled back: {error}, although {reason}"
            log.error("attachment rolled back", link=name, reason=reason)
            self.problems[name] = said
            self._given_up(name, said)
