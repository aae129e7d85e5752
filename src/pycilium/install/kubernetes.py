"""Install, upgrade and uninstall in Kubernetes: objects applied in order, and the record of it that Helm would keep.

The record is written before the first object and again after the last, so that whatever breaks off in between is seen,
and the same command run again finishes it. Invariant: an object that is not this release's is never changed.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from pycilium.errors import CiliumError, Conflict, InstallRefused
from pycilium.install import kubernetes_cleaning as cleaning
from pycilium.install import kubernetes_errands as errands
from pycilium.install import kubernetes_node_preflight as node_preflight
from pycilium.install import kubernetes_release as releases
from pycilium.install.findings import Finding
from pycilium.install.kubernetes_cluster import KINDS, LEASE, NAMESPACE, NODE, SECRET, Cluster, kind_of
from pycilium.install.kubernetes_errands import Errand, Progress
from pycilium.install.kubernetes_manifests import objects
from pycilium.install.kubernetes_names import AGENT, CLEANUP, PREFLIGHT, RELEASE
from pycilium.install.kubernetes_release import Release
from pycilium.install.kubernetes_survey import SELECTORS
from pycilium.install.settings import values_of
from pycilium.install.templates import Plain
from pycilium.store.leases import ANNOUNCEMENT_LEASES, OPERATOR_LEASE

Tell = Callable[[str], None]
_WORKLOADS = ("DaemonSet", "Deployment")
_CLEANER_ENDS_S = 60.0
_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class Removed:
    """What an uninstallation came to."""

    found: bool
    """Whether there was a release."""
    unclean: Mapping[str, str]
    """Nodes on which something of agents may be left, and why."""


@dataclass(frozen=True, slots=True)
class Installer:
    """One release in one cluster.

    Attributes:
        tell: gets each step in words.
        clock: the time for the record.
        sleep: what waits; tests pass their own.
    """

    cluster: Cluster
    namespace: str = "kube-system"
    name: str = RELEASE
    tell: Tell = lambda _: None
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep

    async def history(self) -> list[Release]:
        """All revisions, oldest first."""
        kept = await self.cluster.listed(SECRET, self.namespace, releases.selector(self.name))
        return sorted((releases.read(each) for each in kept), key=lambda each: each.version)

    async def install(self, config: Mapping[str, Any]) -> Release:
        """Install what is not installed, or finish what was begun; InstallRefused if there is another."""
        wanted, history = objects(values_of(config), self.namespace), await self.history()
        manifest = manifest_of(wanted)
        deployed = _deployed(history)
        if deployed is not None and deployed.manifest != manifest:
            raise InstallRefused(
                f"release {self.name} is in {self.namespace} already (revision {deployed.version}), with other values: "
                f"`cilium upgrade` changes it"
            )
        if deployed is not None:
            self.tell(f"revision {deployed.version} is the same: its objects are applied again")
            await self._refuse_others(wanted)
            await self._end_errands()
            await self._apply(wanted)
            await self._prune(wanted, history)
            await self._supersede(history[:-1])
            return deployed
        return await self._revise(releases.PENDING_INSTALL, config, wanted, history)

    async def upgrade(self, config: Mapping[str, Any]) -> Release:
        """Make the installation what `config` says; InstallRefused if there is none."""
        history = await self.history()
        if not history:
            raise InstallRefused(f"no release {self.name} is in {self.namespace}: `cilium install` makes one")
        wanted = objects(values_of(config), self.namespace)
        return await self._revise(releases.PENDING_UPGRADE, config, wanted, history)

    async def uninstall(self, *, clean_within_s: float = 300.0) -> Removed:
        """Take everything away that the release's revisions made, and what its agents made on nodes.

        Workloads end first, then nodes are cleaned, for at most `clean_within_s` (0: not at all), then the rest goes,
        the last made first. Whatever breaks off is finished by the same call.
        """
        history = await self.history()
        if history:
            await self._keep(history[-1].now(releases.UNINSTALLING, "Deletion in progress"))
        await self._delete(errands.head(PREFLIGHT, self.namespace))
        last_first = list(reversed(self._made(history).values()))
        for each in last_first:
            if each["kind"] in _WORKLOADS:
                await self._delete(each)
        unclean = await self._clean(history[-1], clean_within_s) if history and clean_within_s else {}
        for each in last_first:
            if each["kind"] not in _WORKLOADS:
                await self._delete(each)
        if history:
            await self._forget_leases()
        for record in history:
            await self.cluster.delete(SECRET, releases.secret_name(self.name, record.version), self.namespace)
        return Removed(bool(history), unclean)

    async def look_at_nodes(
        self, values: Mapping[str, Any], patience_s: float, *, repair: bool = False
    ) -> list[Finding]:
        """What agents with these values would lack on the nodes, found out there; InstallRefused if that cannot be.

        With `repair`, what may safely be put right there is, before: flannel must have ended.
        """
        nodes = await errands.nodes_of(self.cluster, values)
        if not nodes:
            return []
        if await self.cluster.get(NAMESPACE, self.namespace) is None:
            raise InstallRefused(f"namespace {self.namespace} does not exist yet: create it, for pods that look")
        look = node_preflight.errand(values, self.namespace, secrets.token_hex(4), repair=repair)
        return node_preflight.findings(nodes, await self._send(look, nodes, patience_s))

    async def _clean(self, record: Release, patience_s: float) -> Mapping[str, str]:
        """The nodes that could not be cleaned, and why."""
        values = values_of(record.config)
        nodes = await errands.nodes_of(self.cluster, values)
        if not nodes:
            return {}
        self.tell("waiting for agents to end")
        agents = SELECTORS[AGENT]
        await errands.wait_for_end(self.cluster, self.namespace, agents, nodes, patience_s, self.sleep)
        unclean = (await self._send(cleaning.errand(values, self.namespace), nodes, patience_s)).undone
        for node in await self.cluster.listed(NODE):
            await self._forget_condition(node)
        return unclean

    async def _forget_condition(self, node: Plain) -> None:
        """A Node's, that it has a network by us; held against the version that was read, for kubelet changes it too."""
        name = node["metadata"]["name"]
        for _ in range(_ATTEMPTS):
            conditions = cleaning.conditions_left(node)
            if conditions is None:
                return
            version = {"resourceVersion": node["metadata"]["resourceVersion"]}
            try:
                await self.cluster.patch(
                    NODE, name, {"metadata": version, "status": {"conditions": conditions}}, "status"
                )
            except Conflict:
                node = await self.cluster.get(NODE, name) or {"metadata": {}}
            except CiliumError as error:
                self.tell(f"Node {name} goes on saying that Cilium runs there: {error}")
                return
            else:
                return

    async def _forget_leases(self) -> None:
        """Those that agents and operators made, who may make no more: their rights went before."""
        for each in await self.cluster.listed(LEASE, self.namespace):
            name = str(each["metadata"]["name"])
            if name == OPERATOR_LEASE or name.startswith(ANNOUNCEMENT_LEASES):
                self.tell(f"deleting Lease {name}")
                await self.cluster.delete(LEASE, name, self.namespace)

    async def _send(self, errand: Errand, nodes: list[Plain], patience_s: float) -> Progress:
        """How far an errand came; whatever happens, it is taken away again."""
        await self._refuse_others([errand.daemon_set])
        try:
            await self._apply([errand.daemon_set])
            return await errands.wait_until_done(self.cluster, errand, nodes, patience_s, self.tell, self.sleep)
        finally:
            await self._delete(errand.daemon_set)

    async def _end_errands(self) -> None:
        """What broke off left errands; a cleaner must not work beside new agents."""
        await self._delete(errands.head(PREFLIGHT, self.namespace))
        if await self._delete(errands.head(CLEANUP, self.namespace)):
            nodes, pods = await self.cluster.listed(NODE), errands.selector(CLEANUP)
            await errands.wait_for_end(self.cluster, self.namespace, pods, nodes, _CLEANER_ENDS_S, self.sleep)

    async def _revise(
        self, pending: str, config: Mapping[str, Any], wanted: list[Plain], history: list[Release]
    ) -> Release:
        now, last = self.clock(), history[-1] if history else None
        record = releases.release(
            self.name, self.namespace, last.version + 1 if last else 1, config, manifest_of(wanted), now
        )
        record = record.now(pending, "Installation underway" if last is None else "Preparing upgrade")
        if last is not None:
            record = replace(record, first_deployed=last.first_deployed)
            if last.status in (releases.PENDING_INSTALL, releases.PENDING_UPGRADE):
                self.tell(f"revision {last.version} was not finished: revision {record.version} does so")
        await self._refuse_others(wanted)
        await self._ensure_namespace()
        await self._keep(record)
        await self._end_errands()
        try:
            await self._apply(wanted)
            await self._prune(wanted, history)
        except BaseException as error:
            await self._note_failure(record, error)
            raise
        done = record.now(
            releases.DEPLOYED, f"{'Upgrade' if pending == releases.PENDING_UPGRADE else 'Install'} complete"
        )
        await self._keep(done)
        await self._supersede(history)
        return done

    async def _supersede(self, history: list[Release]) -> None:
        """Revisions before the one that is in force: say so of each, and forget the oldest."""
        for earlier in history:
            if earlier.status not in (releases.SUPERSEDED, releases.FAILED):
                await self._keep(earlier.now(releases.SUPERSEDED, earlier.description))
        for earlier in history[: -releases.KEPT]:
            await self.cluster.delete(SECRET, releases.secret_name(self.name, earlier.version), self.namespace)

    def _made(self, history: list[Release]) -> dict[tuple[str, str, str], Plain]:
        """What revisions made, in that order; with what a release has by default, as a record may be lost."""
        recorded = [each for record in history for each in parsed(record.manifest)]
        return {_key(each): each for each in [*objects(values_of(), self.namespace), *recorded]}

    async def _refuse_others(self, wanted: list[Plain]) -> None:
        """InstallRefused, with their names, if objects of these names are not this release's."""
        foreign = []
        for each in wanted:
            present = await self.cluster.get(kind_of(each), each["metadata"]["name"], _namespace(each))
            if present is not None and releases.owner(present) != (self.name, self.namespace):
                of = "/".join(reversed(releases.owner(present)))
                foreign.append(
                    f"{each['kind']} {each['metadata']['name']} ({f'of release {of}' if of != '/' else 'of none'})"
                )
        if foreign:
            raise InstallRefused(
                f"objects are in the way that are not of release {self.name} in {self.namespace}: "
                f"{', '.join(foreign)}; uninstall what they belong to, or delete them"
            )

    async def _ensure_namespace(self) -> None:
        if await self.cluster.get(NAMESPACE, self.namespace) is None:
            self.tell(f"creating namespace {self.namespace}")
            await self.cluster.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace}})

    async def _apply(self, wanted: list[Plain]) -> None:
        for each in wanted:
            self.tell(f"applying {each['kind']} {each['metadata']['name']}")
            await self.cluster.apply(releases.owned(each, self.name, self.namespace))

    async def _prune(self, wanted: list[Plain], history: list[Release]) -> None:
        """Take away what earlier revisions made and this one has not."""
        kept = {_key(each) for each in wanted}
        for key, each in reversed(self._made(history).items()):
            if key not in kept:
                await self._delete(each)

    async def _delete(self, plain: Plain) -> bool:
        """Take an object away if it is this release's; whether it was."""
        kind, name, namespace = kind_of(plain), plain["metadata"]["name"], _namespace(plain)
        present = await self.cluster.get(kind, name, namespace)
        if present is not None and releases.owner(present) == (self.name, self.namespace):
            self.tell(f"deleting {kind.name} {name}")
            return await self.cluster.delete(kind, name, namespace)
        return False

    async def _keep(self, record: Release) -> None:
        await self.cluster.apply(releases.secret(record, self.clock()))

    async def _note_failure(self, record: Release, error: BaseException) -> None:
        """Best effort: what keeps us from going on may keep us from writing it down too."""
        try:
            await self._keep(record.now(releases.FAILED, str(error) or type(error).__name__))
        except CiliumError as also:
            self.tell(f"revision {record.version} stays pending: {also}")


def manifest_of(wanted: list[Plain]) -> str:
    """Objects as one text of YAML documents."""
    import yaml

    texts = (yaml.dump(each, Dumper=yaml.CSafeDumper, sort_keys=False, allow_unicode=True) for each in wanted)
    return "".join(f"---\n{text}" for text in texts)


def parsed(manifest: str) -> list[Plain]:
    """The objects of such a text, of kinds that installations of ours have."""
    import yaml

    return [each for each in yaml.load_all(manifest, Loader=yaml.CSafeLoader) if each and each["kind"] in KINDS]


def _deployed(history: list[Release]) -> Release | None:
    """The revision that is in force: the last, if it was finished."""
    return history[-1] if history and history[-1].status == releases.DEPLOYED else None


def _key(plain: Plain) -> tuple[str, str, str]:
    return plain["kind"], _namespace(plain) or "", plain["metadata"]["name"]


def _namespace(plain: Plain) -> str | None:
    namespace = plain["metadata"].get("namespace")
    return namespace if isinstance(namespace, str) else None
