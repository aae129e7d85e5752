"""Plans, carried out in memory: a program sees whole sets at every instant; numbers survive restarts."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_network

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pycilium.model.l4 import Protocol
from pycilium.model.service import (
    Algorithm,
    Backend,
    BackendState,
    ForwardingMode,
    Frontend,
    FrontendKind,
    L4Address,
    ServiceFlag,
    SourceRanges,
)
from pycilium.services import Capacities, FrontendEntry, MapContents, Run, ServicePlanner, SourceRange
from pycilium.services.maglev import table
from tests.unit.services.fake_kernel import FakeKernel

GRACE_S = 1.0
SMALL = Capacities(slots=256, backends=64, maglev_table_size=31, grace_s=GRACE_S)


def at(number, port=80):
    return L4Address(IPv4Address(0x0A600000 + number), port, Protocol.TCP)


def backend(number, **changes):
    return Backend(L4Address(IPv4Address(0x0A000000 + number), 8080, Protocol.TCP), **changes)


def frontend(number=1, inside=(1, 2), outside=(), **changes):
    made = Frontend(
        at=at(number),
        kind=FrontendKind.CLUSTER_IP,
        namespace="default",
        service=f"web-{number}",
        inside=tuple(each if isinstance(each, Backend) else backend(each) for each in inside),
        outside=tuple(each if isinstance(each, Backend) else backend(each) for each in outside),
    )
    return replace(made, **changes)


def choices(backends, algorithm=Algorithm.RANDOM, table_size=31):
    """What new connections choose from: the rule in plain words."""
    takers = [each for each in backends if each.weight]
    active = [each for each in takers if each.state is BackendState.ACTIVE] or takers
    if algorithm is Algorithm.MAGLEV and len(active) > 1:
        positions = table([each.at for each in active], [each.weight for each in active], table_size)
        return Counter(active[position].at for position in positions)
    return Counter({each.at: each.weight for each in active})


class Node:
    """A planner and its kernel; time is a number that tests move."""

    def __init__(self, capacities=SMALL):
        self.capacities = capacities
        self.kernel = FakeKernel(capacities.slots, capacities.backends)
        self.now = 0.0
        self.planner = ServicePlanner(capacities)

    def expect(self, frontends):
        for each in frontends:
            self.kernel.wanted[each.at].append(
                (choices(each.inside, each.algorithm), choices(each.outside, each.algorithm))
            )

    def update(self, *frontends, gone=(), refused=()):
        self.expect(frontends)
        changes = {each.at: each for each in frontends} | dict.fromkeys(gone)
        plan = self.planner.update(changes, self.now)
        self.kernel.carry_out(plan, refused)
        self.kernel.retire(self.planner.realized(refused, self.now))
        return plan

    def wait(self, seconds=GRACE_S):
        """Time passes, and what rested is given back."""
        self.now += seconds
        self.kernel.retire(self.planner.realized((), self.now))

    def restart(self, *frontends):
        self.expect(frontends)
        self.planner = ServicePlanner(self.capacities, self.kernel.contents())
        plan = self.planner.replace(frontends, self.now)
        self.kernel.carry_out(plan)
        self.kernel.retire(self.planner.realized((), self.now))
        return plan


def test_a_frontend_leads_to_its_backends():
    node = Node()
    node.update(frontend(inside=[1, 2], outside=[2]))

    assert node.kernel.reached(at(1)) == (Counter([backend(1).at, backend(2).at]), Counter([backend(2).at]))


def test_what_has_not_changed_is_not_written():
    node = Node()
    node.update(frontend())
    plan = node.update(frontend())

    assert (plan.frontends, plan.slots, len(plan.backends.ids)) == ({}, (), 0)


def test_a_change_writes_a_new_run_and_switches_one_frontend():
    node = Node()
    node.update(frontend(1, [1, 2]), frontend(2, [3]))
    plan = node.update(frontend(1, [1, 4]))

    assert list(plan.frontends) == [at(1)]
    assert [run for run, _ in plan.slots] == [Run(3, 2)]
    assert len(plan.backends.ids) == 1


def test_frontends_that_choose_among_the_same_backends_share_their_slots():
    node = Node()
    plan = node.update(*(frontend(number, [1, 2], [1, 2]) for number in range(5)))

    assert len(plan.slots) == 1


def test_a_frontend_without_backends_has_no_slots():
    node = Node()
    plan = node.update(frontend(inside=[]))

    assert plan.frontends[at(1)] == FrontendEntry(Run(0, 0), Run(0, 0), 1)


def test_backends_are_repeated_by_their_weights():
    node = Node()
    node.update(frontend(inside=[backend(1, weight=3), backend(2)]))

    assert node.kernel.reached(at(1))[0] == Counter({backend(1).at: 3, backend(2).at: 1})


def test_a_backend_of_no_weight_keeps_its_id_and_gets_nothing_new():
    node = Node()
    node.update(frontend(inside=[1, backend(2, weight=0)]))

    assert node.kernel.reached(at(1))[0] == Counter([backend(1).at])
    assert node.kernel.backends[node.planner.backend_id(backend(2).at)][1] is BackendState.TERMINATING


def test_terminating_backends_are_chosen_when_no_other_is_left():
    node = Node()
    leaving = backend(2, state=BackendState.TERMINATING)
    node.update(frontend(inside=[1, leaving]))
    among_others = node.kernel.reached(at(1))[0]
    node.update(frontend(inside=[leaving]))

    assert (among_others, node.kernel.reached(at(1))[0]) == (Counter([backend(1).at]), Counter([leaving.at]))


def test_a_backend_is_active_while_it_is_so_for_any_frontend():
    node = Node()
    leaving = backend(1, state=BackendState.TERMINATING)
    node.update(frontend(1, [1]), frontend(2, [leaving, 2]))
    number = node.planner.backend_id(backend(1).at)
    before = node.kernel.backends[number][1]
    node.update(frontend(1, [leaving, 2]))

    assert (before, node.kernel.backends[number][1]) == (BackendState.ACTIVE, BackendState.TERMINATING)


def test_a_backend_that_nobody_wants_is_gone_once_the_kernel_knows():
    node = Node()
    node.update(frontend(inside=[1, 2]))
    number = node.planner.backend_id(backend(2).at)
    node.update(frontend(inside=[1]))

    assert number not in node.kernel.backends


def test_a_backend_stays_while_the_kernel_refuses_the_switch():
    node = Node()
    node.update(frontend(inside=[1, 2]))
    number = node.planner.backend_id(backend(2).at)
    node.update(frontend(inside=[1]), refused=[at(1)])

    assert number in node.kernel.backends


def test_an_id_is_not_given_out_again_before_the_grace_time_has_passed():
    node = Node(replace(SMALL, backends=3))
    node.update(frontend(inside=[1, 2]))
    node.update(frontend(inside=[1]))
    node.update(frontend(inside=[1, 3]))
    early = dict(node.planner.problems)
    node.wait()
    node.update()

    assert "raise backend_capacity" in early[at(1)]
    assert node.planner.problems == {}
    assert node.kernel.reached(at(1))[0] == Counter([backend(1).at, backend(3).at])


def test_slots_are_not_given_out_again_before_the_grace_time_has_passed():
    node = Node(replace(SMALL, slots=4))
    node.update(frontend(inside=[1, 2]))
    node.update(frontend(inside=[1, 3]))
    node.update(frontend(inside=[1, 4]))
    early = dict(node.planner.problems)
    kept = node.kernel.reached(at(1))[0]
    node.wait()
    node.update()

    assert "raise service_slot_capacity" in early[at(1)]
    assert kept == Counter([backend(1).at, backend(3).at])
    assert node.kernel.reached(at(1))[0] == Counter([backend(1).at, backend(4).at])
    assert node.planner.busy


def test_backends_that_come_and_go_need_no_more_room():
    node = Node(replace(SMALL, slots=70, maglev_table_size=31))
    for step in range(100):
        node.update(frontend(inside=[1, 2, 3] if step % 2 else [1, 2], algorithm=Algorithm.MAGLEV))

    assert node.planner.problems == {}


def test_a_new_frontend_without_room_stays_away_and_disturbs_no_other():
    node = Node(replace(SMALL, slots=4))
    node.update(frontend(1, [1, 2, 3]))
    plan = node.update(frontend(2, [4, 5]), frontend(3, [6]))

    assert list(plan.frontends) == [at(3)]
    assert list(node.planner.problems) == [at(2)]


def test_after_a_while_nothing_is_left_of_what_is_gone():
    node = Node()
    free = node.planner.free_slots
    node.update(*(frontend(number, range(number, number + 5)) for number in range(10)))
    node.update(gone=[at(number) for number in range(10)])
    for _ in range(3):
        node.wait()

    assert (node.planner.free_slots, node.planner.backends_used, node.planner.busy) == (free, 0, False)
    assert (node.kernel.frontends, node.kernel.backends) == ({}, {})


def test_a_maglev_frontend_has_a_whole_table():
    node = Node()
    plan = node.update(frontend(inside=[1, 2, 3], algorithm=Algorithm.MAGLEV))

    assert plan.frontends[at(1)].inside.slots == 31
    assert plan.frontends[at(1)].flags == ServiceFlag.MAGLEV


def test_a_table_of_one_backend_is_one_slot():
    plan = Node().update(frontend(inside=[1], algorithm=Algorithm.MAGLEV))

    assert plan.frontends[at(1)].inside.slots == 1


def test_flags_say_what_a_program_must_know():
    ranges = SourceRanges((ip_network("192.0.2.0/24"),))
    plan = Node().update(
        frontend(1, kind=FrontendKind.LOAD_BALANCER, affinity_s=60, source_ranges=ranges, external_local=True),
        frontend(
            2, kind=FrontendKind.NODE_PORT, forwarding=ForwardingMode.DSR, source_ranges=replace(ranges, deny=True)
        ),
    )
    flag = ServiceFlag

    assert plan.frontends[at(1)].affinity_s == 60
    assert plan.frontends[at(1)].flags == flag.EXTERNAL | flag.AFFINITY | flag.SOURCE_ALLOW | flag.KEEP_SOURCE
    assert plan.frontends[at(2)].flags == flag.EXTERNAL | flag.DSR | flag.SOURCE_DENY


# -- what is remembered of clients --


def affine(number=1, **changes):
    """A frontend of one Service's port, to the backends 1 and 2."""
    return frontend(number, **{"service": "web", "port_name": "http", "affinity_s": 60, **changes})


def affinity_ids(node, *numbers):
    return [node.kernel.frontends[at(number)].affinity_id for number in numbers]


def test_a_client_had_another_backend_by_each_address_of_a_service():
    node = Node()
    node.update(affine(1), affine(2, kind=FrontendKind.LOAD_BALANCER), affine(3, kind=FrontendKind.NODE_PORT))

    (shared,) = set(affinity_ids(node, 1, 2, 3))
    assert shared


def test_ports_services_and_what_has_other_backends_are_remembered_apart():
    node = Node()
    node.update(
        affine(1),
        affine(2, port_name="metrics"),
        affine(3, service="db"),
        affine(4, internal_local=True),
        affine(5, affinity_s=0),
    )

    ids = affinity_ids(node, 1, 2, 3, 4)
    assert len({*ids, 0}) == 5
    assert affinity_ids(node, 5) == [0]


def test_a_restarted_agent_remembers_clients_although_the_service_has_got_another_address_meanwhile():
    node = Node()
    node.update(affine(2), affine(7, service="db"))
    before = affinity_ids(node, 2, 7)

    node.restart(affine(1), affine(2), affine(6, service="db"), affine(7, service="db"))

    assert affinity_ids(node, 2, 7) == before
    assert affinity_ids(node, 1, 6) == before


def test_an_id_by_which_clients_are_remembered_is_given_out_once():
    node = Node()
    node.update(affine(1))
    (before,) = affinity_ids(node, 1)
    node.update(gone=[at(1)])
    node.update(affine(2, service="db"))

    assert affinity_ids(node, 2) != [before]


def test_clients_are_remembered_until_no_frontend_leads_to_their_backend():
    node = Node()
    node.update(affine(1), affine(2))
    (shared,) = set(affinity_ids(node, 1, 2))
    ids = {node.planner.backend_id(backend(number).at) for number in (1, 2)}
    assert node.planner.remembered(shared) == ids

    node.update(gone=[at(1)])
    assert node.planner.remembered(shared) == ids

    node.update(gone=[at(2)])
    assert node.planner.remembered(shared) == set()


FRONTENDS = st.builds(
    affine,
    st.integers(1, 5),
    port_name=st.sampled_from(("http", "metrics")),
    service=st.sampled_from(("web", "db")),
    internal_local=st.booleans(),
    affinity_s=st.sampled_from((0, 60)),
)
AFFINITY_STEPS = st.one_of(
    st.builds(lambda one: ("set", one), FRONTENDS),
    st.builds(lambda one: ("gone", one), FRONTENDS),
    st.just(("restart", None)),
)


@settings(max_examples=100, deadline=None)
@given(steps=st.lists(AFFINITY_STEPS, max_size=20))
def test_whatever_the_path_frontends_share_a_memory_exactly_if_they_are_of_one_port(steps):
    node, wanted = Node(), {}
    for what, one in steps:
        if what == "set":
            wanted[one.at] = one
            node.update(one)
        elif what == "gone":
            wanted.pop(one.at, None)
            node.update(gone=[one.at])
        else:
            node.restart(*wanted.values())

        shared = {}
        for each in wanted.values():
            if each.affinity_s:
                port = (each.name, each.port_name, each.internal_local)
                shared.setdefault(port, set()).add(node.kernel.frontends[each.at].affinity_id)
        assert [len(ids) for ids in shared.values()] == [1] * len(shared)
        assert len({0}.union(*shared.values())) == len(shared) + 1


def test_a_host_port_is_one_of_this_node_alone():
    anywhere = L4Address(IPv4Address(0), 80, Protocol.TCP)
    plan = Node().update(frontend(at=anywhere, kind=FrontendKind.HOST_PORT), frontend(2, kind=FrontendKind.HOST_PORT))

    for address in (anywhere, at(2)):
        assert plan.frontends[address].flags == ServiceFlag.EXTERNAL | ServiceFlag.OWN_NODE


def ranged(*cidrs, deny=False):
    return frontend(source_ranges=SourceRanges(tuple(ip_network(cidr) for cidr in cidrs), deny))


def test_source_ranges_come_before_the_frontend_and_go_after_it():
    node = Node()
    node.update(ranged("192.0.2.0/24", "198.51.100.0/24"))
    plan = node.update(ranged("192.0.2.0/24", "203.0.113.0/24"))

    assert plan.source_ranges == {
        SourceRange(1, ip_network("203.0.113.0/24")): True,
        SourceRange(1, ip_network("198.51.100.0/24")): False,
    }


def test_ranges_that_mean_the_opposite_now_are_those_of_another_id():
    node = Node()
    node.update(ranged("192.0.2.0/24"))
    plan = node.update(ranged("192.0.2.0/24", deny=True))

    assert plan.frontends[at(1)].service_id == 2
    assert node.kernel.ranges == {SourceRange(2, ip_network("192.0.2.0/24"))}


def test_a_frontend_that_is_gone_takes_its_ranges_along_and_its_id_is_not_used_again():
    node = Node()
    node.update(ranged("192.0.2.0/24"))
    node.update(gone=[at(1)])
    node.wait()
    node.update(frontend(2))

    assert node.kernel.ranges == set()
    assert node.planner.entry(at(2)).service_id == 2
    assert (node.planner.frontend_of(1), node.planner.frontend_of(2)) == (None, at(2))


def test_a_restart_that_finds_all_as_it_should_be_writes_nothing():
    frontends = [
        frontend(1, [1, 2], [2]),
        frontend(2, [3, 4, 5], algorithm=Algorithm.MAGLEV),
        frontend(3, []),
        replace(ranged("192.0.2.0/24"), at=at(4)),
        frontend(5, [1, backend(6, state=BackendState.TERMINATING), backend(7, weight=0)]),
    ]
    node = Node()
    node.update(*frontends)
    plan = node.restart(*frontends)

    assert (plan.frontends, plan.slots, len(plan.backends.ids), plan.source_ranges) == ({}, (), 0, {})


def test_a_restart_keeps_ids_of_what_changed_meanwhile():
    node = Node()
    node.update(frontend(1, [1, 2]), frontend(2, [3]))
    before = {number: node.planner.backend_id(backend(number).at) for number in (1, 2, 3)}
    service_id = node.planner.entry(at(1)).service_id
    node.restart(frontend(1, [1, 3, 4]))

    assert node.planner.entry(at(1)).service_id == service_id
    assert {number: node.planner.backend_id(backend(number).at) for number in (1, 3)} == {1: before[1], 3: before[3]}
    assert at(2) not in node.kernel.frontends
    assert before[2] not in node.kernel.backends


def test_maps_that_contradict_themselves_are_written_anew():
    contents = MapContents(
        frontends={
            at(1): FrontendEntry(Run(0, 4), Run(0, 0), 7),
            at(2): FrontendEntry(Run(2, 4), Run(0, 0), 7),
            at(3): FrontendEntry(Run(250, 100), Run(0, 0), 0),
        },
        backends={1: (backend(1).at, 1), 2: (backend(1).at, 1), 99: (backend(2).at, 1)},
        slots=np.array([1, 2, 99, 0] * 64, dtype=np.uint32),
    )
    wanted = [frontend(number, [1, 2]) for number in (1, 2, 3)]
    planner = ServicePlanner(SMALL, contents)
    plan = planner.replace(wanted, 0.0)
    entries = [planner.entry(each.at) for each in wanted]

    assert len({entry.service_id for entry in entries}) == 3
    assert len({entry.inside for entry in entries}) == 1
    assert [content.tolist() for _, content in plan.slots] == [[1, planner.backend_id(backend(2).at)]]


def test_addresses_are_written_in_mapped_form():
    v6 = L4Address(IPv6Address("fd00::1"), 53, Protocol.UDP)
    plan = Node().update(frontend(1, [1]), replace(frontend(2), inside=(Backend(v6),)))

    assert [bytes(row).hex() for row in plan.backends.addresses] == [
        "00000000000000000000ffff0a000001",
        "fd000000000000000000000000000001",
    ]
    assert plan.backends.ports.tolist() == [8080, 53]
    assert plan.backends.protocols.tolist() == [6, 17]
    assert plan.backends.states.tolist() == [1, 1]


# == whatever happens ==

some_backends = st.lists(
    st.builds(
        backend,
        st.integers(1, 8),
        state=st.sampled_from([BackendState.ACTIVE, BackendState.ACTIVE, BackendState.TERMINATING]),
        weight=st.sampled_from([1, 1, 1, 2, 0]),
    ),
    max_size=5,
    unique_by=lambda each: each.at,
)
some_frontend = st.builds(
    frontend,
    st.integers(1, 5),
    some_backends,
    some_backends,
    algorithm=st.sampled_from([Algorithm.RANDOM, Algorithm.RANDOM, Algorithm.MAGLEV]),
)
some_step = st.one_of(
    st.tuples(st.just("update"), st.lists(some_frontend, max_size=4, unique_by=lambda each: each.at), st.booleans()),
    st.tuples(st.just("gone"), st.integers(1, 5), st.just(0)),
    st.tuples(st.just("wait"), st.sampled_from([0.3, 1.0, 5.0]), st.just(0)),
    st.tuples(st.just("restart"), st.just(0), st.just(0)),
)


@given(st.lists(some_step, max_size=15), st.sampled_from([(256, 64), (40, 8), (12, 6)]))
@settings(max_examples=150, deadline=None)
def test_at_every_instant_a_program_sees_a_whole_set(steps, room):
    slots, backends = room
    node = Node(replace(SMALL, slots=slots, backends=backends))
    wanted = {}
    for kind, subject, refuse in steps:
        if kind == "update":
            wanted |= {each.at: each for each in subject}
            node.update(*subject, refused=[each.at for each in subject[:1]] if refuse else ())
            if refuse:  # the kernel takes it the next time
                for each in subject[:1]:
                    node.kernel.frontends.pop(each.at, None)
                node.restart(*wanted.values())
        elif kind == "gone":
            wanted.pop(at(subject), None)
            node.update(gone=[at(subject)])
        elif kind == "wait":
            node.wait(subject)
        else:
            node.restart(*wanted.values())
    for _ in range(3):
        node.wait(2.0)
        node.update()
    realized = {each.at for each in wanted.values()} - set(node.planner.problems)
    assert set(node.kernel.frontends) >= realized
    assert {each: node.kernel.reached(each) for each in realized} == {
        each: (
            choices(wanted[each].inside, wanted[each].algorithm),
            choices(wanted[each].outside, wanted[each].algorithm),
        )
        for each in realized
    }
    if room == (256, 64):
        assert node.planner.problems == {}
