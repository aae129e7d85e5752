"""What the kernel should know of processes that are endpoints depends on which there are, and on nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path, PurePosixPath

from hypothesis import given
from hypothesis import strategies as st

from pycilium.agent.endpoints.process_targets import entries_of, levels_of, links_of, outermost
from pycilium.agent.entries import ProcessTarget
from pycilium.agent.intent import HostAddress
from pycilium.agent.link_operations import process_link
from pycilium.datapath.cgroup_links import BELOW_PROGRAM, PROCESS_PROGRAM
from pycilium.model.endpoint import PROCESS_IFNAME, Endpoint, EndpointState
from pycilium.model.labels import Labels
from pycilium.model.policy import Subject
from pycilium.testing import policies as gen
from tests.unit.agent.test_controller import ENDPOINTS as PODS
from tests.unit.agent.test_controller import Agent, Kernel

ROOT = Path("/sys/fs/cgroup")
NAMES = st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map(lambda parts: "/" + "/".join(parts))


def process(number: int, cgroup: str, *, cgroup_id: int | None = None, past: frozenset[int] = frozenset()) -> Endpoint:
    """With the labels and identity of one of the generated pods."""
    pod = PODS[number % len(PODS)]
    return replace(
        pod,
        endpoint_id=100 + number,
        container_id=f"process.a.{number}",
        ifname=PROCESS_IFNAME,
        host_ifname="",
        ifindex=0,
        ipv4=None,
        ipv6=None,
        pod_name=f"process{number}",
        cgroup=cgroup,
        cgroup_id=1000 + number if cgroup_id is None else cgroup_id,
        past_cgroup_ids=frozenset(2000 + 10 * number + each for each in past),
        state=EndpointState.REGENERATING,
    )


PROCESSES = st.lists(
    st.tuples(NAMES, st.frozensets(st.integers(0, 2))), unique_by=lambda each: each[0], max_size=6
).map(lambda made: [process(number, cgroup, past=past) for number, (cgroup, past) in enumerate(made)])


@given(PROCESSES)
def test_each_cgroup_lies_in_that_of_exactly_one_link_that_judges(processes: list[Endpoint]) -> None:
    judging = [PurePosixPath(each.cgroup) for each in outermost(processes)]
    links = {target.cgroup_id: target for target in links_of(processes, ROOT).values()}

    for each in processes:
        path = PurePosixPath(each.cgroup)
        assert sum(link in (path, *path.parents) for link in judging) == 1
        assert links[each.cgroup_id].program == (PROCESS_PROGRAM if path in judging else BELOW_PROGRAM)
        assert links[each.cgroup_id].cgroup == ROOT / each.cgroup[1:]


@given(PROCESSES)
def test_what_is_left_of_a_cgroup_that_is_gone_judges_itself(processes: list[Endpoint]) -> None:
    links = links_of(processes, ROOT)

    past = {number for each in processes for number in each.past_cgroup_ids}
    assert {target.cgroup_id for target in links.values() if target.cgroup is None} == past
    assert all(links[process_link(number)].program == PROCESS_PROGRAM for number in past)


@given(PROCESSES)
def test_depths_are_those_of_the_cgroups_the_deepest_first(processes: list[Endpoint]) -> None:
    levels = levels_of(processes)

    assert set(levels) == {each.cgroup.count("/") for each in processes}
    assert list(levels) == sorted(levels, reverse=True)


def test_sockets_that_outlive_their_cgroup_have_the_entry_of_their_endpoint() -> None:
    gone = process(1, "/b", cgroup_id=0, past=frozenset((0, 1)))

    entry = ProcessTarget(gone.sec_identity, 7, 101)
    assert entries_of([gone], {gone.subject: 7}) == {2010: entry, 2011: entry}


def test_what_has_no_cgroup_identity_or_policy_has_no_entry() -> None:
    ready = process(0, "/a")
    missing = [process(1, "/b", cgroup_id=0), replace(process(2, "/c"), sec_identity=0)]

    assert entries_of([ready, *missing], {each.subject: 7 for each in (ready, *missing)}) == {
        1000: ProcessTarget(ready.sec_identity, 7, 100)
    }
    assert entries_of([ready], {Subject(Labels()): 7}) == {}


def held(agent: Agent) -> tuple[object, ...]:
    """What the kernel has of processes, without numbers of policies."""
    targets = agent.targets
    entries = {
        cgroup_id: (entry.sec_identity, entry.endpoint_id)
        for cgroup_id, entry in targets.processes.tracker.realized.items()
    }
    return entries, dict(targets.process_levels.tracker.realized), dict(agent.kernel.links.attached)


def straight(processes: list[Endpoint]) -> Agent:
    agent = Agent(Kernel())
    agent.change(endpoints=processes)
    return agent


@given(processes=PROCESSES, order=st.randoms(use_true_random=False), restart_at=st.integers(0, 8))
def test_any_order_restarts_and_cgroups_made_anew_end_in_what_one_step_makes(
    processes: list[Endpoint], order: object, restart_at: int
) -> None:
    steps = [
        replace(each, cgroup_id=cgroup_id, past_cgroup_ids=past)
        for each in processes
        for cgroup_id, past in ((0, frozenset({each.cgroup_id})), (each.cgroup_id + 500, frozenset[int]()))
    ]
    order.shuffle(steps)
    agent = Agent(Kernel())
    there: dict[int, Endpoint] = {}
    for number, step in enumerate([*steps, *processes]):
        there[step.endpoint_id] = step
        if number == restart_at:
            agent = Agent(agent.kernel)
            agent.change(endpoints=list(there.values()))
        agent.change(endpoints=[step])
    agent.run()

    assert held(agent) == held(straight(processes))
    assert agent.raw() == straight(processes).raw()


@given(PROCESSES)
def test_what_is_removed_leaves_nothing_behind(processes: list[Endpoint]) -> None:
    agent = straight(processes)

    agent.change(gone=[each.endpoint_id for each in processes])
    agent.run()

    assert held(agent) == ({}, {}, {})


def test_a_restart_that_ends_early_leaves_the_policy_of_processes_in_force() -> None:
    """Their entries alone name it: who counted only pods' threw it away, and their packets were dropped (165)."""
    document = gen.parsed([])
    agent = Agent(Kernel())
    agent.change(endpoints=[process(0, "/a")], policies=document)
    entry = agent.targets.processes.tracker.realized[1000]

    again = Agent(agent.kernel)

    assert entry.policy_id in again.targets.policies.tracker.realized


def test_the_address_of_the_node_stays_the_hosts() -> None:
    agent = straight([process(0, "/a")])

    hosts: list[HostAddress] = list(agent.intent.db.snapshot().all(agent.intent.host_addresses))
    prefixes = dict(agent.controller.realized_prefixes())

    assert {entry.sec_identity for prefix, entry in prefixes.items() if prefix.network_address == hosts[0].address} == {
        1
    }
