"""A lab as a whole: up, down, list. The one place that makes and removes namespaces of a lab.

`up` writes lab.json first and makes things after; whatever stops it, the same function that serves `down` undoes
what was reached. `down` needs nothing but the folder, and is a success when there is nothing left to remove.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from pycilium.errors import AlreadyExists, CiliumError, NotFound, PermissionRequired, StoreUnavailable
from pycilium.lab import cgroups, namespaces, processes
from pycilium.lab.layout import DEFAULT_LAB, LABS_ROOT, LabLayout, LabRecord, PodRecord, check_pod_name
from pycilium.lab.plan import MAX_NODES, UpOptions, plan

if TYPE_CHECKING:
    from pycilium.store import BlockingStore

Tell = Callable[[str], None]
"""Told what happens next, for progress."""


def up(options: UpOptions, tell: Tell) -> LabRecord:
    """Makes a lab, agents running. Undone entirely if it fails or is interrupted."""
    layout = LabLayout(options.name)
    record = _pinned(plan(options))
    require_root("cilium lab up")
    if record.etcd:
        from pycilium.lab import etcd

        etcd.require()
    if record.store_url:
        tell("asking the API server")
        _check_store(record.store_url)
    if options.with_agents:
        tell("checking the kernel")
        _check_kernel()
    _claim(layout, record)
    try:
        _build(layout, record, options, tell)
    except BaseException:
        tell("undoing what was made")
        _end(layout)
        raise
    return record


def down(name: str) -> bool:
    """Removes a lab; False when there was none."""
    layout = LabLayout(name)
    require_root("cilium lab down")
    if not layout.folder.exists():
        return False
    _end(layout)
    return True


def load(name: str) -> LabRecord:
    """The lab's record; NotFound when there is no such lab."""
    layout = LabLayout(name)
    try:
        return msgspec.json.decode(layout.record.read_bytes(), type=LabRecord)
    except FileNotFoundError as error:
        hint = f"; labs that are up: {', '.join(names)}" if (names := list_names()) else ""
        option = "" if name == DEFAULT_LAB else f" --lab {name}"
        raise NotFound(f"there is no lab {name}: `cilium{option} lab up` makes it{hint}") from error
    except PermissionError as error:
        raise PermissionRequired(f"{layout.record}: root is needed; run the command with sudo") from error
    except msgspec.DecodeError as error:
        option = "" if name == DEFAULT_LAB else f" --lab {name}"
        raise CiliumError(
            f"{layout.record} is damaged ({error}); remove the lab with `cilium{option} lab down` and make it anew"
        ) from error


def is_up(name: str) -> bool:
    return LabLayout(name).record.exists()


def list_names(root: Path = LABS_ROOT) -> list[str]:
    """Every lab on this machine."""
    try:
        return sorted(entry.name for entry in root.iterdir() if entry.is_dir())
    except FileNotFoundError:
        return []


def pod_records(layout: LabLayout) -> list[PodRecord]:
    """Every pod of the lab, by namespace and name."""
    found = []
    for path in layout.pods_folder.glob("*.json"):
        with contextlib.suppress(FileNotFoundError, msgspec.DecodeError):
            found.append(msgspec.json.decode(path.read_bytes(), type=PodRecord))
    return sorted(found, key=lambda pod: (pod.namespace, pod.name))


def find_pod(layout: LabLayout, namespace: str, name: str) -> PodRecord:
    """One pod; NotFound says where one of that name is."""
    check_pod_name(namespace, name)
    try:
        return msgspec.json.decode(layout.pod_record(namespace, name).read_bytes(), type=PodRecord)
    except FileNotFoundError as error:
        elsewhere = [pod.namespace for pod in pod_records(layout) if pod.name == name]
        hint = f"; there is one in namespace {elsewhere[0]}: add -n {elsewhere[0]}" if elsewhere else ""
        raise NotFound(f"no pod {namespace}/{name} in lab {layout.name}{hint}") from error


@contextlib.contextmanager
def changed(layout: LabLayout) -> Iterator[LabRecord]:
    """The lab's record, for one command at a time: others that would change the lab wait for the end of the block."""
    load(layout.name)
    with (layout.folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield load(layout.name)


def save(layout: LabLayout, record: LabRecord) -> None:
    """Writes lab.json: before what it names is made, and after what it names no more is gone."""
    write_atomically(layout.record, msgspec.json.encode(record))


def write_atomically(path: Path, content: bytes) -> None:
    """Readers see the old content or the new, never a part."""
    draft = path.with_suffix(path.suffix + ".tmp")
    draft.write_bytes(content)
    draft.replace(path)


def open_store(layout: LabLayout) -> BlockingStore:
    """The lab's store, which `up` made; StoreUnavailable if it is gone, for a new one would be empty."""
    from pycilium.store import open_blocking

    if not layout.has_etcd and not layout.external_store.exists() and not layout.store_path.exists():
        option = "" if layout.name == DEFAULT_LAB else f" --lab {layout.name}"
        raise StoreUnavailable(
            f"the store of lab {layout.name} is gone: {layout.store_path} does not exist; restore it from a copy, or "
            f"make the lab anew with `cilium{option} lab down` and `cilium{option} lab up`"
        )
    return open_blocking(layout.store_url)


def is_root() -> bool:
    return os.geteuid() == 0


def require_root(what: str) -> None:
    if not is_root():
        raise PermissionRequired(f"{what} needs root (it makes network namespaces and loads eBPF programs): use sudo")


def _check_kernel() -> None:
    from pycilium.datapath.features import require

    require()


def _pinned(record: LabRecord) -> LabRecord:
    """With a store's URL that means the same to every process of the lab, whatever its environment."""
    if record.store_url is None:
        return record
    from pycilium.store.kubernetes.access import pinned

    return msgspec.structs.replace(record, store_url=pinned(record.store_url, os.environ))


def _check_store(url: str) -> None:
    """StoreError if it does not answer, or not to us."""
    from pycilium.lab import gate
    from pycilium.model.resources import CiliumNode
    from pycilium.store import open_blocking

    gate.require(url)
    with open_blocking(url) as store:
        store.list(CiliumNode)


def _claim(layout: LabLayout, record: LabRecord) -> None:
    """Takes the lab's name: of two that try, one gets it. Names that somebody else uses are refused here."""
    layout.folder.parent.mkdir(mode=0o755, exist_ok=True)
    if layout.folder.exists():
        raise _taken(layout)
    for name in _namespaces_of(record):
        if namespaces.exists(name):
            raise AlreadyExists(
                f"network namespace {name} exists, but lab {layout.name} does not: "
                f"choose another name with --lab, or remove it with `ip netns delete {name}`"
            )
    try:
        layout.folder.mkdir(mode=0o755)
    except FileExistsError as error:
        raise _taken(layout) from error
    save(layout, record)


def _taken(layout: LabLayout) -> AlreadyExists:
    option = "" if layout.name == DEFAULT_LAB else f" --lab {layout.name}"
    return AlreadyExists(
        f"lab {layout.name} exists already: remove it with `cilium{option} lab down`, or choose another name with --lab"
    )


def _build(layout: LabLayout, record: LabRecord, options: UpOptions, tell: Tell) -> None:
    from pycilium.lab import agents, given_cidrs, network, operators, services, world
    from pycilium.store import open_blocking

    layout.pods_folder.mkdir()
    layout.world_folder.mkdir()
    tell("making namespaces")
    for name in _namespaces_of(record):
        namespaces.create(name)
    tell("wiring the underlay, the world and the nodes")
    network.make_underlay(record)
    network.make_world(record)
    for node in record.nodes:
        network.make_node(record, node)
        layout.node_folder(node.name).mkdir()
        cgroups.make(cgroups.of_node(layout.name, node.name))
    tell("starting the world's HTTP server")
    world.start(record, layout)
    if record.etcd:
        from pycilium.lab import etcd

        tell("starting etcd")
        network.make_store(record, etcd.NAME, record.etcd)
        etcd.start(layout, record)
    elif record.gate and record.store_url:
        from pycilium.lab import gate

        tell("opening the gate to the API server")
        layout.external_store.write_text(record.store_url, encoding="utf-8")
        network.make_store(record, gate.NAME, record.gate)
        gate.start(layout, record)
    if not record.gate:  # an API server outside has ranges of its own
        with open_blocking(layout.store_url) as store:
            store.apply(list(services.resources(record)))
    if options.with_agents:
        tell("starting the operator")
        operators.start(layout, record)
        names = [node.name for node in record.nodes]
        agents.start_all(layout, record, names, tell)
        given_cidrs.taken_in(layout, record, names)


def _end(layout: LabLayout) -> None:
    """Removes the lab; its agents end first, for then it takes back what it told a store that outlives it."""
    if layout.external_store.exists():
        with contextlib.suppress(CiliumError):
            record = load(layout.name)
            processes.end_all_in([node.namespace for node in record.nodes])
            _take_back(layout, record)
    _remove(layout)


def _take_back(layout: LabLayout, record: LabRecord) -> None:
    from pycilium.lab import published

    with open_store(layout) as store:
        published.forget_pods(store, pod_records(layout))
        published.forget_nodes(store, record.nodes)


def _remove(layout: LabLayout) -> None:
    """Ends, unmounts and removes everything of the lab. May be called at any stage, and again."""
    names = _known_namespaces(layout)
    processes.end_all_in(names)
    namespaces.unmount_below(layout.folder)
    for name in names:
        namespaces.delete(name)
    cgroups.remove(cgroups.of_lab(layout.name))
    shutil.rmtree(layout.folder, ignore_errors=True)
    for folder in (layout.folder.parent, namespaces.NETNS_ROOT):
        with contextlib.suppress(OSError):
            folder.rmdir()  # only when it is empty, and then nobody else uses it


def _known_namespaces(layout: LabLayout) -> list[str]:
    """What the lab's records name; where lab.json is damaged, what the largest plan and the lab's folders name."""
    pods = [pod.netns for pod in pod_records(layout)]
    try:
        return [*pods, *_namespaces_of(load(layout.name))]
    except CiliumError:
        largest = plan(UpOptions(name=layout.name, node_count=MAX_NODES, store="etcd"))
        folders = [f"cilium-{layout.name}-{entry.name}" for entry in layout.folder.iterdir() if entry.is_dir()]
        return [*pods, *dict.fromkeys((*_namespaces_of(largest), *folders))]


def _namespaces_of(record: LabRecord) -> Iterable[str]:
    nodes = (node.namespace for node in record.nodes)
    return filter(None, (record.underlay, record.world, record.etcd, record.gate, *nodes))
