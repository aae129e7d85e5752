"""The command `cilium sysdump`: of a cluster, of a lab, of this machine."""

from __future__ import annotations

import asyncio
import base64
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import click

from pycilium import __version__
from pycilium.cli.cluster import ClusterPlace, access
from pycilium.cli.render import progress
from pycilium.cli.sysdump.archive import Archive
from pycilium.cli.sysdump.secrets import Secrets
from pycilium.cli.target import Target, pass_target, place_options
from pycilium.errors import ConfigError

_CONFIG = Path("/etc/cilium/agent.json")
_IN_A_POD = Path("/tmp/cilium/config-map")  # noqa: S108 -- where an agent's pod has its configuration
_UNIT = "cilium-agent.service"


@click.command()
@click.option(
    "--output-filename", "name", default="cilium-sysdump-<ts>", show_default=True, metavar="NAME", help="- is stdout."
)
@place_options
@pass_target
def sysdump(target: Target, name: str) -> None:
    """Collect what a stranger needs to diagnose this installation, in one zip, without secrets.

    Of a cluster: objects, logs, each node through its agent's pod. Of a lab and of a machine: agents, kernels, logs.
    What could not be had is listed in failures.txt.
    """
    now = datetime.now(UTC)
    folder = name.replace("<ts>", f"{now:%Y%m%d-%H%M%S}").removesuffix(".zip")
    to_stdout = name == "-"
    path = Path("cilium-sysdump" if to_stdout else f"{folder}.zip")
    place = target.cluster
    about = (f"A dump of {_what(target, place)}", f"made {now:%Y-%m-%d %H:%M:%S} UTC by pycilium {__version__}")
    with (
        _kept() if to_stdout else opened(path) as out,
        nullcontext(_silent) if to_stdout else progress("sysdump") as tell,
    ):
        with Archive(out, path.stem, about, Secrets(_known(place))) as archive:
            if place is not None:
                asyncio.run(_of_cluster(place, archive, tell))
            else:
                _of_nodes(target, archive, tell)
        failures = len(archive.failures)
        if to_stdout:
            out.seek(0)
            sys.stdout.buffer.write(out.read())
            return
    click.echo(
        f"{path} is complete." if not failures else f"{path}: {failures} parts are missing, see its failures.txt."
    )


def _what(target: Target, place: ClusterPlace | None) -> str:
    if place is not None:
        return f"a cluster, namespace {place.namespace}"
    return (
        f"lab {target.lab_name}" if target.lab and not target.machine_option else f"the machine {os.uname().nodename}"
    )


@contextmanager
def _kept() -> Iterator[IO[bytes]]:
    """Until it goes to stdout."""
    with tempfile.TemporaryFile() as kept:
        yield kept


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """Readable for its owner alone; gone again if it is not completed. ConfigError if it is there or cannot be."""
    try:
        out = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
    except FileExistsError as error:
        raise ConfigError(f"{path} exists already: name another with --output-filename") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from error
    try:
        with out:
            yield out
    except BaseException:
        path.unlink(missing_ok=True)
        raise


async def _of_cluster(place: ClusterPlace, archive: Archive, tell: Callable[[str], None]) -> None:
    from pycilium.cli.sysdump import cluster

    async with place.reached() as opened:
        await cluster.dump(place, opened, archive, tell)


def _of_nodes(target: Target, archive: Archive, tell: Callable[[str], None]) -> None:
    from pycilium.cli.sysdump import node

    if target.machine_option or target.lab is None:
        node.dump(this_machine(target), archive, "", tell)
        return
    layout, record = target.lab_and_record()
    archive.attempt("lab.json", layout.record.read_text)
    for path in sorted((layout.folder / "operators").glob("*.log")):
        archive.attempt(f"operators/{path.name}", path.read_text)
    for name in target.nodes:
        node.dump(_of_lab(target, name, record.node(name).namespace), archive, name, tell)


def this_machine(target: Target) -> Any:
    """Where the parts of the node are on which this runs: a machine, or an agent's pod."""
    from pycilium.cli.sysdump.node import Node

    files = {"agent.json": _CONFIG} if _CONFIG.exists() else {}
    if os.environ.get("K8S_NODE_NAME") and _IN_A_POD.is_dir():  # elsewhere anybody may have written there
        files |= {f"config-map/{path.name}": path for path in _IN_A_POD.iterdir() if path.is_file()}
    unit = _UNIT if os.path.isdir("/run/systemd/system") else ""
    hubble = str(Path(target.agent_socket()).with_name("hubble.sock"))
    return Node(target.agent, target.health, hubble, "/sys/fs/bpf/cilium", files, unit)


def _of_lab(target: Target, name: str, namespace: str) -> Any:
    from pycilium.cli.sysdump.node import Node
    from pycilium.lab import namespaces
    from pycilium.lab.layout import LabLayout

    folder = LabLayout(target.lab_name).node_folder(name)
    return Node(
        agent=lambda: target.agent(name),
        health=lambda: target.health(name),
        hubble=target.hubble_socket(name),
        bpf_root=str(folder / "bpf"),
        files={each: folder / each for each in ("agent.json", "agent.log")},
        enter=lambda look: namespaces.run_in(namespace, look),
    )


def _known(place: ClusterPlace | None) -> Sequence[str]:
    """What we prove ourselves by to the API server, in every form in which it might appear."""
    if place is None:
        return ()
    found = access(place.kubeconfig, place.context)
    proof = asyncio.run(found.credentials.proof())
    word = proof.authorization.rpartition(" ")[2]
    known = [word, *(value for _, value in found.headers)]
    if proof.authorization.startswith("Basic "):
        known.append(base64.b64decode(word).decode(errors="replace").partition(":")[2])
    if proof.certificate is not None:
        known.append(proof.certificate.key.decode(errors="replace"))
        known.append(base64.b64encode(proof.certificate.key).decode())
    return known


def _silent(_: str) -> None:
    """For what goes to stdout, beside which agents' pods may say nothing."""
