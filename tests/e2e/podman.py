"""podman on a bare machine, with its CNI backend, and an image that needs no registry."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.machine import Machine, busybox_image

IMAGE = "localhost/box"
CONTAINERS_CONF = """
[containers]
default_ulimits = []
pids_limit = 0
[engine]
runtime = "runc"
[network]
network_backend = "cni"
"""
"""Limits as they are: this machine may lack the right to raise them."""


def furnish(machine: Machine, folder: Path) -> None:
    """The machine gets podman's configuration, and the image, whose files are kept below `folder`."""
    busybox_image(folder / "image")
    machine.write("/etc/containers/containers.conf", CONTAINERS_CONF)
    machine.run("sh", "-c", f"tar -C {folder}/image -c . | podman import --quiet - {IMAGE}")
