"""The law: what is realized depends only on what is intended, not on the path there.

Histories of intent are drawn, and with them everything that may lie between: rounds or none (split and squashed), the
same again (repeated), targets that fail, that do what they report as failed, that raise half-way; agents that die and
start anew from nothing but the target. In the end, once the target works, it must hold what the last intent says.
"""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from pycilium.reconcile import Backoff, Reconciler, Stages
from pycilium.tables import Database
from tests.unit.reconcile.fake_target import FakeTarget


@dataclass(frozen=True)
class Route:
    prefix: str
    gateway: int


class Agent:
    """The smallest control plane: a table of intent, a controller, two stages of targets. Knows nothing from before."""

    def __init__(self, gateways: FakeTarget, routes: FakeTarget) -> None:
        self.db = Database()
        self.table = self.db.table(
            "routes", key=lambda route: route.prefix, indexes={"gateway": lambda route: [route.gateway]}
        )
        self._changes = self.table.changes()
        self.must_resync = True
        backoff = Backoff(first_s=1, longest_s=2)
        self._gateways = Reconciler("gateways", gateways, backoff=backoff)
        self._routes = Reconciler(
            "routes", routes, backoff=backoff, ready=lambda _, gateway: self._gateways.is_done(gateway)
        )
        self.stages = Stages([self._gateways, self._routes])

    def intend(self, intent: dict[str, int]) -> None:
        with self.db.write() as txn:
            txn.replace_all(self.table, [Route(prefix, gateway) for prefix, gateway in intent.items()])

    def round(self, now: float) -> None:
        snapshot = self.db.snapshot()
        for change in self._changes.drain():
            for route in filter(None, (change.old, change.new)):
                if snapshot.get(self.table, route.prefix) is None:
                    self._routes.desired_delete(route.prefix)
                else:
                    self._routes.desired_set(route.prefix, snapshot.get(self.table, route.prefix).gateway)
                users = frozenset(user.prefix for user in snapshot.by(self.table, "gateway", route.gateway))
                if users:
                    self._gateways.desired_set(route.gateway, users)
                else:
                    self._gateways.desired_delete(route.gateway)
        self.stages.run_round(now)

    def resync(self) -> None:
        try:
            self.stages.resync()
            self.must_resync = False
        except ExceptionGroup:
            self.must_resync = True


PREFIXES, GATEWAYS = st.sampled_from("abc"), st.integers(1, 2)
INTENT = st.dictionaries(PREFIXES, GATEWAYS)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("intend"), INTENT),
        st.just(("round", None)),
        st.just(("round", None)),
        st.tuples(st.just("fail"), st.tuples(st.sets(PREFIXES), st.sets(GATEWAYS), st.booleans())),
        st.tuples(st.just("raise"), st.booleans()),
        st.just(("restart", None)),
        st.tuples(st.sampled_from(["resync", "stranger"]), st.tuples(PREFIXES, GATEWAYS)),
    ),
    max_size=20,
)


@settings(max_examples=300, deadline=None)
@given(STEPS, st.none() | INTENT)
def test_for_any_path_the_target_holds_what_is_intended(steps, last):
    gateways, routes = FakeTarget(), FakeTarget()
    agent, intent, now = Agent(gateways, routes), {}, 0.0
    agent.resync()
    for what, value in steps:
        now += 1
        match what:
            case "intend":
                intent = value
                agent.intend(intent)
            case "round":
                agent.round(now)
            case "fail":
                routes.failing, gateways.failing, applied = value
                routes.applied_though_failing = routes.failing if applied else set()
                gateways.applied_though_failing = gateways.failing if applied else set()
            case "raise":
                routes.raising = gateways.raising = value
            case "restart":
                agent = Agent(gateways, routes)
                agent.resync()
                agent.intend(intent)
            case "resync":
                agent.resync()
            case "stranger":  # somebody else wrote into the target; a resync must put it right
                routes.content[value[0]] = value[1]
                agent.must_resync = True

    for target in (gateways, routes):
        target.failing, target.raising = set(), False
    if agent.must_resync:  # only then: it would hide what an agent believes wrongly
        agent.resync()
    last = intent if last is None else last
    agent.intend(last)
    for _ in range(3):
        now += 10
        agent.round(now)

    assert routes.content == last
    assert gateways.content == {
        gateway: frozenset(prefix for prefix, used in last.items() if used == gateway) for gateway in last.values()
    }
    assert agent.stages.in_sync


@settings(deadline=None)
@given(st.lists(INTENT, min_size=1, max_size=5), st.data())
def test_no_route_ever_refers_to_a_gateway_that_is_not_there(intents, data):
    """What the order of stages and `ready` are for; checked after every single call of a target."""
    gateways, routes = FakeTarget(), FakeTarget()
    dangling = []

    def check() -> None:
        dangling.extend(set(routes.content.values()) - set(gateways.content))

    agent, now = Agent(_Checked(gateways, check), _Checked(routes, check)), 0.0
    for intent in intents:
        agent.intend(intent)
        for _ in range(data.draw(st.integers(0, 2))):
            now += 10
            routes.failing, gateways.failing = data.draw(st.sets(PREFIXES)), data.draw(st.sets(GATEWAYS))
            agent.round(now)
            assert dangling == []


class _Checked(FakeTarget):
    """Passes calls on, key by key, and checks after each."""

    def __init__(self, inner, check):
        super().__init__()
        self._inner, self._check = inner, check

    def update(self, entries):
        failures = {}
        for key, value in entries.items():
            failures |= self._inner.update({key: value})
            self._check()
        return failures

    def delete(self, keys):
        failures = {}
        for key in keys:
            failures |= self._inner.delete([key])
            self._check()
        return failures
