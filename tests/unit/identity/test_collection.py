"""An identity is removed only if nobody can be using it; who comes in that moment keeps it."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from pycilium.identity import Decision, IdentityCollection, IdentityState

GRACE_S = 60.0


def test_what_nobody_uses_is_marked_and_then_deleted():
    collection = IdentityCollection(GRACE_S)
    fresh, marked = {300: IdentityState("1", False)}, {300: IdentityState("2", True)}

    assert collection.observe(fresh, (), 0) == Decision()
    assert collection.observe(fresh, (), 59) == Decision()
    assert collection.observe(fresh, (), 60) == Decision(mark=(300,))
    assert collection.observe(marked, (), 61) == Decision()
    assert collection.observe(marked, (), 120) == Decision()
    assert collection.observe(marked, (), 121) == Decision(delete=(300,))


def test_use_begins_everything_anew():
    collection = IdentityCollection(GRACE_S)
    state = {300: IdentityState("1", False)}
    collection.observe(state, (), 0)
    collection.observe(state, {300}, 30)

    assert collection.observe(state, (), 60) == Decision()
    assert collection.observe(state, (), 120) == Decision(mark=(300,))


def test_what_is_used_bears_no_mark():
    assert IdentityCollection(GRACE_S).observe({300: IdentityState("1", True)}, {300}, 0) == Decision(unmark=(300,))


def test_a_mark_of_an_earlier_leader_is_not_believed_before_its_time():
    assert IdentityCollection(GRACE_S).observe({300: IdentityState("1", True)}, (), 1e6) == Decision()


def test_a_time_in_which_nothing_could_be_read_does_not_count():
    collection = IdentityCollection(GRACE_S)
    state = {300: IdentityState("1", True)}
    collection.observe(state, (), 0)
    collection.interrupted()

    assert collection.observe(state, (), 600) == Decision()


class World:
    """One identity in the store, one collector whose writes arrive late, one agent that reads late.

    The agent obeys its two rules: a mark that it sees is taken off before use and while in use, and what is gone is
    created anew. It is up to date within the grace time.
    """

    def __init__(self) -> None:
        self.version, self.is_marked, self.exists = 1, False, True
        self.collection = IdentityCollection(GRACE_S)
        self.now = 0.0
        self.on_the_way: list[tuple[str, int]] = []
        self.seen_mark = False
        self.in_use = self.published = False
        self.lost_in_use = False

    def collect(self) -> None:
        states = {300: IdentityState(str(self.version), self.is_marked)} if self.exists else {}
        decision = self.collection.observe(states, {300} if self.published else (), self.now)
        self.on_the_way += [("mark", self.version)] * len(decision.mark)
        self.on_the_way += [("unmark", self.version)] * len(decision.unmark)
        self.on_the_way += [("delete", self.version)] * len(decision.delete)

    def land(self) -> None:
        if not self.on_the_way:
            return
        what, version = self.on_the_way.pop(0)
        if not self.exists or version != self.version:
            return
        if what == "delete":
            self.exists = False
            self.lost_in_use |= self.in_use
        else:
            self.version, self.is_marked = self.version + 1, what == "mark"

    def read(self) -> None:
        self.seen_mark = self.is_marked
        if self.in_use and self.is_marked:
            self.take_off()

    def take_off(self) -> None:
        if self.exists and self.is_marked:
            self.version, self.is_marked = self.version + 1, False

    def use(self) -> None:
        if self.seen_mark:
            self.take_off()
        if not self.exists and self.seen_mark:
            self.create()
        self.in_use |= self.exists

    def create(self) -> None:
        """Anew: no version ever comes again, and nobody has marked it yet."""
        self.version, self.is_marked, self.exists = self.version + 1, False, True

    def publish(self) -> None:
        self.published = self.in_use

    def leave(self) -> None:
        self.in_use = self.published = False

    def collect_and_land(self) -> None:
        self.collect()
        self.land()

    def wait(self) -> None:
        """The grace time, in which the agent reads now and then; the last time was a while ago."""
        self.now += GRACE_S / 2
        self.read()
        self.now += GRACE_S / 2


@settings(max_examples=500)
@given(
    st.lists(
        st.sampled_from(["collect", "collect_and_land", "land", "read", "use", "publish", "leave", "wait"]), max_size=40
    )
)
@example(["collect", "wait", "collect_and_land", "collect", "wait", "collect_and_land", "use", "collect_and_land"])
def test_no_identity_is_deleted_while_an_agent_uses_it(actions):
    world = World()
    for action in actions:
        getattr(world, action)()

    assert not world.lost_in_use
