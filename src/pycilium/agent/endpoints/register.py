"""Which endpoints this node has: their table, their files, and the numbers and addresses that they hold.

Nobody else writes any of these. What is in the table has its id and its addresses for itself; what was taken for an
endpoint is given back when it goes, by whichever way.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog

from pycilium.agent.endpoints.files import EndpointFiles
from pycilium.agent.intent import Intent
from pycilium.agent.loop import ControlLoop
from pycilium.errors import DatapathError, EndpointConflict, IpamExhausted
from pycilium.ipam import Addresses, EndpointIds, HostScope
from pycilium.model.endpoint import Endpoint

log = structlog.get_logger()


class EndpointRegister:
    """Of one node. Nothing here waits for anybody but the kernel and the file system."""

    def __init__(self, intent: Intent, files: EndpointFiles, loop: ControlLoop, ipam: HostScope) -> None:
        self._intent, self._files, self._loop = intent, files, loop
        self.ipam, self._ids = ipam, EndpointIds()
        self.pool_exhausted: Callable[[str], None] = lambda _: None
        """Called with the reason when an endpoint gets no address; not again before one has got one."""
        self._is_exhausted = False

    def all(self) -> list[Endpoint]:
        """Every endpoint, by id."""
        snapshot = self._intent.db.snapshot()
        return sorted(snapshot.all(self._intent.endpoints), key=lambda endpoint: endpoint.endpoint_id)

    def find(self, container_id: str, ifname: str) -> Endpoint | None:
        found = self._intent.db.snapshot().by(self._intent.endpoints, "container", (container_id, ifname))
        return next(iter(found), None)

    def put(self, endpoint: Endpoint) -> None:
        """Into the table, in place of what it was."""
        with self._intent.db.write() as txn:
            txn.insert(self._intent.endpoints, endpoint)

    def save(self, endpoint: Endpoint) -> None:
        """For the next agent."""
        self._files.save(endpoint)

    def keep(self, endpoint: Endpoint) -> Endpoint:
        """Put it, offer it to the kernel, save it for the next agent; how it is then."""
        self.put(endpoint)
        self._loop.run_now()
        now = self.find(endpoint.container_id, endpoint.ifname) or endpoint
        self._files.save(now)
        return now

    def realize(self, endpoint: Endpoint) -> Endpoint:
        """Keep it; DatapathError if the kernel refused part of it."""
        now = self.keep(endpoint)
        if differences := self.differences(now):
            raise DatapathError(f"{now}: {'; '.join(differences)}")
        return now

    def differences(self, endpoint: Endpoint) -> list[str]:
        """What the kernel has otherwise. Processes whose cgroup is not there have nothing in it."""
        return self._loop.differences(endpoint) if not endpoint.is_process or endpoint.cgroup_id else []

    def forget(self, endpoint: Endpoint) -> None:
        """Out of the table, the kernel and the files; its number and addresses stay taken."""
        with self._intent.db.write() as txn:
            txn.delete(self._intent.endpoints, endpoint.endpoint_id)
        self._loop.run_now()
        self._files.remove(endpoint.endpoint_id)

    def drop_file(self, endpoint: Endpoint) -> None:
        """Of one that is not taken up."""
        self._files.remove(endpoint.endpoint_id)

    def new_id(self, attachment: str) -> int:
        return self._ids.allocate(attachment)

    def release_id(self, endpoint_id: int) -> None:
        self._ids.release(endpoint_id)

    def new_addresses(self, attachment: str, *, is_pod: bool) -> Addresses:
        """IpamExhausted if there are none. Those of the node itself are the last that anybody would want."""
        try:
            addresses = self.ipam.allocate(attachment) if is_pod else self.ipam.allocate_last(attachment)
        except IpamExhausted as error:
            log.warning("no address for an endpoint", attachment=attachment, reason=str(error))
            if not self._is_exhausted:
                self._is_exhausted = True
                self.pool_exhausted(str(error))
            raise
        self._is_exhausted = False
        return addresses

    def release(self, endpoint: Endpoint) -> None:
        """Its number and addresses are free again."""
        self.ipam.release(endpoint.attachment)
        self._ids.release(endpoint.endpoint_id)

    def take_up(self, endpoint: Endpoint) -> None:
        """One that an earlier agent left, with its id and its addresses."""
        try:
            self._ids.claim(endpoint.endpoint_id, endpoint.attachment)
        except EndpointConflict as error:
            _refused(endpoint, error)
            return
        try:
            self.ipam.claim(endpoint.attachment, Addresses(endpoint.ipv4, endpoint.ipv6))
        except EndpointConflict as error:
            self._ids.release(endpoint.endpoint_id)
            _refused(endpoint, error)
            return
        self.put(endpoint)


def _refused(endpoint: Endpoint, error: EndpointConflict) -> None:
    log.error("endpoint cannot be taken up", endpoint=str(endpoint), reason=str(error))
