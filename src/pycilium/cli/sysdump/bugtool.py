"""`cilium-bugtool`: this node's part of a dump as the tar that Cilium's clients fetch from an agent's pod.

Its options and the line that names the archive are Cilium's; what is in the archive is what `cilium sysdump` has.
"""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime
from pathlib import Path

import click

from pycilium import __version__
from pycilium.cli.boundary import run
from pycilium.cli.sysdump import node
from pycilium.cli.sysdump.archive import Archive
from pycilium.cli.sysdump.command import opened, this_machine
from pycilium.cli.sysdump.packing import TAR, TAR_GZ, Pack
from pycilium.cli.sysdump.secrets import Secrets
from pycilium.cli.target import Target, pass_target

_KINDS: dict[str, tuple[str, Pack, str]] = {"tar": ("tar", TAR, "ARCHIVE"), "gz": ("tar.gz", TAR_GZ, "GZIP")}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "-o",
    "--archiveType",
    "kind",
    type=click.Choice(tuple(_KINDS)),
    default="tar",
    show_default=True,
    help="Its format.",
)
@click.option(
    "-t",
    "--tmp",
    "folder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default="/tmp",  # noqa: S108 -- as Cilium's; the archive is readable for its owner alone
    show_default=True,
    help="Where the archive goes.",
)
@click.option(
    "--archive-prefix",
    "prefix",
    metavar="TEXT",
    default="cilium-bugtool",
    show_default=True,
    help="What its name begins with.",
)
@click.option("--exclude-object-files", is_flag=True, help="For Cilium's clients: no object file is ever in it.")
@pass_target
def bugtool(target: Target, kind: str, folder: Path, prefix: str, exclude_object_files: bool) -> None:
    """Collect what this node's agent and kernel say, without secrets, and print where the archive is."""
    del exclude_object_files
    now = datetime.now(UTC)
    name = f"{prefix}-{now:%Y%m%d-%H%M%S.%f}"
    if "/" in name:
        raise click.BadParameter("must be the beginning of a name, without /", param_hint="--archive-prefix")
    suffix, pack, word = _KINDS[kind]
    path = folder / f"{name}.{suffix}"
    about = (f"A dump of the node {os.uname().nodename}", f"made {now:%Y-%m-%d %H:%M:%S} UTC by pycilium {__version__}")
    with opened(path) as out, Archive(out, name, about, Secrets(), pack=pack) as archive:
        node.dump(this_machine(target), archive, "", lambda _: None)
    click.echo(f"\n{word} at {path}")


def main() -> None:
    run(bugtool, os.path.basename(sys.argv[0]))


if __name__ == "__main__":
    main()
