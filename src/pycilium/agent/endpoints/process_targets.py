"""What the kernel should know of the endpoints that are processes of the node: entries, depths and links.

Of cgroups within one another the nearest counts, which the programs find out by themselves: that the outermost judges
is enough, for it does for all below. With a second one they would judge, count and report every packet twice.

A socket outlives its cgroup when somebody else holds it, and stays that cgroup's. So a cgroup that is gone keeps its
entry and its link for as long as it has sockets. Whether one above it still judges cannot be seen any more, so it
judges itself; at the worst a packet of such a socket is reported twice. As no link can be made on a cgroup that is
gone, each has one from the beginning.

A pure function of the endpoints and their policies; whatever changes of them, all is decided anew, for they are few.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path, PurePosixPath

from pycilium.agent.entries import ProcessTarget
from pycilium.agent.intent import Intent
from pycilium.agent.link_operations import SockTarget, process_link
from pycilium.agent.targets import Targets, in_words
from pycilium.datapath import cgroup_links, layouts
from pycilium.model.endpoint import Endpoint
from pycilium.model.policy import Subject
from pycilium.tables import Change

MAX_LEVELS = int(layouts.ProcessLimits.LEVELS_MAX)
"""At how many depths such cgroups may lie."""


def level_of(cgroup: str) -> int:
    """How deep a cgroup lies below the root, which is at 0."""
    return len(PurePosixPath(cgroup).parts) - 1


def levels_of(endpoints: Iterable[Endpoint]) -> tuple[int, ...]:
    """The depths at which their cgroups lie, the deepest first."""
    return tuple(sorted({level_of(each.cgroup) for each in endpoints}, reverse=True))


def entries_of(endpoints: Iterable[Endpoint], policy_ids: Mapping[Subject, int]) -> dict[int, ProcessTarget]:
    """By cgroup id; none of those that have no identity or no policy yet, or no cgroup and no socket any more."""
    return {
        cgroup_id: ProcessTarget(each.sec_identity, policy_ids[each.subject], each.endpoint_id)
        for each in endpoints
        if each.sec_identity and each.subject in policy_ids
        for cgroup_id in (each.cgroup_id, *each.past_cgroup_ids)
        if cgroup_id
    }


def outermost(endpoints: Collection[Endpoint]) -> list[Endpoint]:
    """Those that have a cgroup, which lies in that of no other."""
    present = [each for each in endpoints if each.cgroup_id]
    places = {PurePosixPath(each.cgroup) for each in present}
    return [each for each in present if places.isdisjoint(PurePosixPath(each.cgroup).parents)]


def links_of(endpoints: Collection[Endpoint], root: Path) -> dict[str, SockTarget]:
    """By name: one on each cgroup, and on what is left of each that is gone."""
    judging = {each.cgroup_id for each in outermost(endpoints)}
    targets = [
        SockTarget(
            each.cgroup_id,
            cgroup_links.PROCESS_PROGRAM if each.cgroup_id in judging else cgroup_links.BELOW_PROGRAM,
            root / each.cgroup.lstrip("/"),
        )
        for each in endpoints
        if each.cgroup_id
    ]
    past = [SockTarget(number, cgroup_links.PROCESS_PROGRAM) for each in endpoints for number in each.past_cgroup_ids]
    return {target.key: target for target in (*targets, *past)}


class ProcessTargets:
    """Of one node; `root` is where the cgroups lie."""

    def __init__(self, intent: Intent, targets: Targets) -> None:
        self._intent, self._targets = intent, targets
        self._placed: list[Endpoint] = []
        """Those that have an entry."""
        self.root = Path()

    def desire(
        self, changed: Iterable[Change[Endpoint]], policy_ids: Mapping[Subject, int], *, policies_changed: bool
    ) -> None:
        """Take in which endpoints changed, and which policies the subjects have now."""
        touched = any(each is not None and each.is_process for change in changed for each in (change.old, change.new))
        if not touched and not policies_changed:
            return
        targets, before = self._targets, links_of(self._placed, self.root)
        live = [each for each in self._intent.db.snapshot().all(self._intent.endpoints) if each.is_process]
        entries = entries_of(live, policy_ids)
        self._placed = [each for each in live if entries.keys() & {each.cgroup_id, *each.past_cgroup_ids}]
        levels, links = levels_of(self._placed), links_of(self._placed, self.root)
        targets.processes.desired_replace(entries)
        targets.process_levels.desired_replace({0: levels} if levels else {})
        for name in before.keys() - links.keys():
            targets.links.desired_delete(name)
        for name, target in links.items():
            targets.links.desired_set(name, target)

    def differences(self, endpoint: Endpoint) -> list[str]:
        """As the controller's."""
        if not endpoint.cgroup_id:
            left = "; sockets that it left still obey its policies" if endpoint.past_cgroup_ids else ""
            return [f"there is no cgroup {endpoint.cgroup}: is the service running?{left}"]
        missing = [in_words(self._targets.processes, endpoint.cgroup_id, f"cgroup {endpoint.cgroup}")]
        path = PurePosixPath(endpoint.cgroup)
        missing += [
            in_words(self._targets.links, process_link(each.cgroup_id), f"program on cgroup {each.cgroup}")
            for each in self._placed
            if each.cgroup_id and PurePosixPath(each.cgroup) in (path, *path.parents)
        ]
        return [text for text in missing if text]
