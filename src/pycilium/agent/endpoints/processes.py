"""Endpoints that are processes of the node itself, by cgroup: made when somebody asks, kept while it comes and goes.

A service that is restarted gets a cgroup anew, with another number. The kernel tells of each that is made or removed;
then all are looked at, so that nothing is lost with news that are. What is realized depends on which are there.

Sockets may outlive their cgroup: in systemd's store of descriptors, or in a service whose socket unit was stopped. They
stay the endpoint's until the last is closed, of which the kernel tells nobody: so it is asked now and then.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePosixPath

import structlog
from inotify_simple import INotify, flags

from pycilium.agent.endpoints import memory as endpoint_memory
from pycilium.agent.endpoints.labelling import Workload
from pycilium.agent.endpoints.lifecycle import Endpoints
from pycilium.agent.endpoints.process_targets import MAX_LEVELS, ProcessTargets, level_of
from pycilium.agent.entries import ProcessTarget
from pycilium.api.process_messages import ProcessRequest
from pycilium.datapath import process_cgroups
from pycilium.errors import AttachError, CiliumError, EndpointConflict, InvalidResource, NotFound
from pycilium.model.endpoint import Endpoint

log = structlog.get_logger()
RETRY_S = 5.0
LEFT_SOCKETS_S = 5.0
"""How often it is looked whether sockets that outlive their cgroup are still there."""
_CHANGES = flags.CREATE | flags.DELETE | flags.DELETE_SELF | flags.MOVED_TO | flags.MOVED_FROM | flags.ONLYDIR


class Processes:
    """Of one node; `endpoints` keeps them, `targets` are what the kernel should have of them.

    `has_sockets` says whether the kernel has any of a cgroup of this id that had a link and is gone.
    """

    def __init__(self, endpoints: Endpoints, targets: ProcessTargets, has_sockets: Callable[[int], bool]) -> None:
        self._endpoints, self._targets, self._has_sockets = endpoints, targets, has_sockets
        with contextlib.suppress(AttachError):  # whoever adds one is told
            targets.root = process_cgroups.root()
        self._changed = asyncio.Event()
        self._adding = asyncio.Lock()

    async def add(self, request: ProcessRequest) -> Endpoint:
        """Processes of a cgroup, and of those below that are no endpoint of their own.

        Idempotent. InvalidResource, NotFound or EndpointConflict say what would be right.
        """
        self._targets.root = root = process_cgroups.root()
        cgroup = process_cgroups.name_of(request.cgroup, root)
        cgroup_id = process_cgroups.id_of(cgroup, root)
        workload = self._endpoints.workload_of_process(request.namespace, request.name, request.labels)
        if not cgroup_id and not request.may_be_absent:
            raise NotFound(f"there is no cgroup {cgroup} (below {root}): is the service running?")
        self._refuse_ours(cgroup, root)
        await asyncio.to_thread(_refuse_other_network, cgroup, root)
        async with self._adding:
            self._refuse_conflicts(cgroup, workload)
            endpoint = await self._endpoints.add_process(workload, cgroup, cgroup_id)
        self._changed.set()
        return endpoint

    def restore(self, remembered: Mapping[int, ProcessTarget]) -> None:
        """Take up, after a restart, those of which the kernel has an entry and no file speaks any more, and what the
        kernel remembers of cgroups that are gone.
        """
        known = {each.endpoint_id for each in self._all()}
        lost = {number: memory for number, memory in remembered.items() if memory.endpoint_id not in known}
        for cgroup_id, cgroup in process_cgroups.with_ids(lost, self._targets.root).items():
            endpoint = endpoint_memory.of_kernel_process(cgroup, cgroup_id, lost[cgroup_id])
            log.warning("endpoint taken up as the kernel remembers it", endpoint=str(endpoint))
            self._endpoints.register.take_up(endpoint)
        for endpoint in self._all():
            numbers = {number for number, memory in remembered.items() if memory.endpoint_id == endpoint.endpoint_id}
            self._endpoints.move_process(endpoint, endpoint.cgroup_id, frozenset(numbers - {endpoint.cgroup_id}))
        with contextlib.suppress(AttachError):  # `run` says so
            self.look()

    async def run(self) -> None:
        """Follow cgroups as they come and go, until cancelled."""
        told = ""
        while True:
            while not self._all():
                await self._changed.wait()
                self._changed.clear()
            try:
                await self._follow()
            except CiliumError as error:  # cgroups that cannot be watched, a full disk
                if str(error) != told:
                    log.warning("processes that are endpoints are not followed", reason=str(error))
                told = str(error)
                await asyncio.sleep(RETRY_S)

    async def _follow(self) -> None:
        root, loop = process_cgroups.root(), asyncio.get_running_loop()
        with INotify(nonblocking=True) as news:
            loop.add_reader(news.fileno(), self._changed.set)
            try:
                while True:
                    self._changed.clear()
                    news.read(timeout=0)
                    _watch(news, (root / each.cgroup.lstrip("/") for each in self._all()), root)
                    self.look()
                    await self._wait()
            finally:
                loop.remove_reader(news.fileno())

    async def _wait(self) -> None:
        """Until something changed, or something may have."""
        left = any(each.past_cgroup_ids for each in self._all())
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), LEFT_SOCKETS_S if left else None)

    def look(self) -> None:
        """Take in which of the cgroups are there, and which that are gone have sockets still."""
        processes = self._all()
        if not processes:
            return
        root = process_cgroups.root()
        for endpoint in processes:
            cgroup_id = process_cgroups.id_of(endpoint.cgroup, root)
            if cgroup_id != endpoint.cgroup_id:
                log.info("cgroup is there" if cgroup_id else "cgroup is gone", endpoint=str(endpoint), id=cgroup_id)
            gone = {endpoint.cgroup_id, *endpoint.past_cgroup_ids} - {0, cgroup_id}
            self._endpoints.move_process(endpoint, cgroup_id, frozenset(filter(self._has_sockets, gone)))

    def _all(self) -> list[Endpoint]:
        return [each for each in self._endpoints.all() if each.is_process]

    def _refuse_conflicts(self, cgroup: str, workload: Workload) -> None:
        for other in self._endpoints.all():
            is_same = (other.namespace, other.pod_name) == (workload.namespace, workload.name)
            if is_same and not other.is_process:
                raise EndpointConflict(f"{other.qualified_pod_name} is an endpoint already: choose another name")
            if other.cgroup == cgroup and not is_same:
                raise EndpointConflict(
                    f"the processes of {cgroup} are {other.qualified_pod_name} already: "
                    f"`cilium endpoint rm {other.pod_name} -n {other.namespace}` comes first"
                )
        depths = {level_of(each) for each in (cgroup, *(other.cgroup for other in self._all()))}
        if len(depths) > MAX_LEVELS:
            raise EndpointConflict(f"cgroups that are endpoints may lie at {MAX_LEVELS} different depths, not more")

    @staticmethod
    def _refuse_ours(cgroup: str, root: Path) -> None:
        own = PurePosixPath(process_cgroups.own(root))
        if PurePosixPath(cgroup) in (own, *own.parents):
            raise InvalidResource(
                f"the agent itself runs in {own}: its policies would cut it off from the store; name a cgroup that "
                "holds the service alone",
                path="cgroup",
            )


def _refuse_other_network(cgroup: str, root: Path) -> None:
    pid = process_cgroups.with_other_network(cgroup, root)
    if pid is not None:
        raise InvalidResource(
            f"process {pid} in {cgroup} has a network of its own, as those of a container or pod: add it by its "
            f"network namespace (cilium endpoint add --netns /proc/{pid}/ns/net)",
            path="cgroup",
        )


def _watch(news: INotify, cgroups: Iterable[Path], root: Path) -> None:
    """Everything above each cgroup that is there: whatever is made or removed on the way to it is told."""
    for cgroup in cgroups:
        for place in cgroup.parents:
            if not place.is_relative_to(root):
                break
            try:
                news.add_watch(place, _CHANGES)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise AttachError(
                    f"{place} cannot be watched: {error.strerror}; if the limit of inotify watches is reached, raise "
                    "the sysctl fs.inotify.max_user_watches"
                ) from error
