#!/usr/bin/env python3
"""Build the image of agent and operator without a registry: Debian packages, our wheel, and the wheels that it needs.

Writes dist/pycilium-V.oci.tar (an OCI archive) and dist/pycilium-V.cdx.json (its bill of materials), whole or
not at all. What is in the image stands in image/: its packages, how our files are laid, and, in the Dockerfile, its
environment and labels. Dependencies have the versions of this .venv, which are those that the tests ran with.

Needs: root, Debian's mmdebstrap and podman (tools/prepare.sh packages image), a Debian mirror and PyPI.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shlex
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from email import message_from_bytes
from email.message import Message
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DIST, PARTS = ROOT / "dist", ROOT / "image"
SUITE, PYTHON = "bookworm", "3.11"
REPOSITORY = "localhost/pycilium"
_KEPT_OUT = ("/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*", "/usr/share/doc/*")
_METADATA = re.compile(r"/site-packages/[^/]+\.dist-info/METADATA$")
_TAKEN_OVER = re.compile(r"(ENV|LABEL|CMD)\s")


def packages(text: str) -> list[str]:
    """The names in image/packages."""
    return [name for line in text.splitlines() if (name := line.partition("#")[0].strip())]


def configuration(dockerfile: str) -> list[str]:
    """What the Dockerfile's last stage says of the image's configuration, as `podman import --change` takes it."""
    last = dockerfile[dockerfile.rindex("\nFROM ") :]
    return [line for line in last.replace("\\\n", " ").splitlines() if _TAKEN_OVER.match(line)]


def main() -> None:
    for program in ("mmdebstrap", "podman"):
        if not any(Path(folder, program).exists() for folder in os.environ["PATH"].split(":")):
            sys.exit(f"Error: {program} is missing: run tools/prepare.sh packages image as root")
    version = importlib.metadata.version("pycilium")
    DIST.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="pycilium-image-", dir=os.environ.get("TMPDIR", "/var/tmp")) as scratch:
        folder = Path(scratch)
        _say(f"Gathering wheels for Python {PYTHON} ...")
        _wheels(folder / "wheels")
        _say(f"Installing Debian {SUITE} and the wheels ...")
        _system(folder / "wheels", folder / "system.tar")
        _say("Writing the bill of materials ...")
        bill = _bill(folder, version)
        _say("Writing the image ...")
        archive = _archive(folder, f"{REPOSITORY}:v{version}")
        unpacked = (folder / "system.tar").stat().st_size
        _put(bill, DIST / f"pycilium-{version}.cdx.json")
        made = _put(archive, DIST / f"pycilium-{version}.oci.tar")
    shown = made.relative_to(ROOT)
    print(f"{shown}  {REPOSITORY}:v{version}, {made.stat().st_size / 1e6:.0f} MB, {unpacked / 1e6:.0f} MB unpacked")
    print(f"{shown.with_name(f'pycilium-{version}.cdx.json')}  what is in it")
    print(f"Next, on every node: ctr -n k8s.io images import {shown}   (k3s: k3s ctr images import {shown})")


def _wheels(into: Path) -> None:
    """Ours, pip's, and those of the dependencies, for the image's Python whatever this one is."""
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    _run(*pip, "wheel", str(ROOT), "--no-deps", "--no-build-isolation", "--wheel-dir", str(into))
    pinned = into.with_name("constraints")
    pinned.write_text("".join(f"{each.name}=={each.version}\n" for each in _dependencies()), encoding="utf-8")
    (ours,) = into.glob("pycilium-*.whl")
    target = ("--python-version", PYTHON, "--only-binary=:all:")
    _run(*pip, "download", *target, "--constraint", str(pinned), "--dest", str(into), str(ours), "pip")


def _dependencies() -> Iterator[importlib.metadata.Distribution]:
    return (each for each in importlib.metadata.distributions() if each.name not in ("pycilium", "pip"))


def _system(wheels: Path, made: Path) -> None:
    """The whole file system: packages, then what layout.sh does within."""
    names = ",".join(packages((PARTS / "packages").read_text(encoding="utf-8")))
    inside = '"$1"/tmp/image'
    hooks = (
        f"mkdir {inside}",
        f"cp -r {shlex.quote(str(wheels))} {shlex.quote(str(PARTS / 'layout.sh'))} {inside}",
        'chroot "$1" sh /tmp/image/layout.sh /tmp/image/wheels',
        f"rm -rf {inside}",
    )
    out = [f"--dpkgopt=path-exclude={pattern}" for pattern in _KEPT_OUT]
    licences = "--dpkgopt=path-include=/usr/share/doc/*/copyright"
    merged = ("--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr", "--include=usr-is-merged")  # else perl comes along
    options = ("--quiet", "--variant=essential", *merged, f"--include={names}", *out, licences)
    _run("mmdebstrap", *options, *(f"--customize-hook={hook}" for hook in hooks), SUITE, str(made))


def _bill(folder: Path, version: str) -> Path:
    """Debian's packages as debsbom knows them, and the Python distributions beside them."""
    made = folder / "bill.cdx.json"
    options = ("--with-licenses", "--no-recommends-deps", "--distro-name", "pycilium", "--distro-version", version)
    sbom = (
        str(Path(sys.executable).with_name("debsbom")),
        "generate",
        "-t",
        "cdx",
        "-r",
        str(folder / "system.tar"),
        *options,
    )
    _run(*sbom, "-o", str(folder / "bill"))
    bill = json.loads(made.read_text(encoding="utf-8"))
    bill["components"] += [distribution(each) for each in _metadata(folder / "system.tar")]
    made.write_text(json.dumps(bill, indent=1) + "\n", encoding="utf-8")
    return made


def _metadata(system: Path) -> Iterator[Message]:
    """Of every Python distribution in the image."""
    with tarfile.open(system) as files:
        for entry in files:
            if _METADATA.search(entry.name) and (file := files.extractfile(entry)):
                yield message_from_bytes(file.read())


def distribution(metadata: Message) -> dict[str, Any]:
    """A Python distribution as a component of the bill of materials."""
    name, version = metadata["Name"], metadata["Version"]
    purl = f"pkg:pypi/{re.sub(r'[-_.]+', '-', name).lower()}@{version}"
    return {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl, **_licence(metadata)}


def _licence(metadata: Message) -> dict[str, Any]:
    """What the distribution says: an SPDX expression; else the classifiers' names; else its own words, if few."""
    if expression := metadata["License-Expression"]:
        return {"licenses": [{"expression": expression, "acknowledgement": "declared"}]}
    classifiers: Iterable[str] = metadata.get_all("Classifier") or ()
    names = [each.rpartition(" :: ")[2] for each in classifiers if each.startswith("License :: ")]
    words = metadata["License"] or ""
    names = names or ([words] if words and "\n" not in words else [])
    return {"licenses": [{"license": {"name": name}} for name in names]} if names else {}


def _archive(folder: Path, name: str) -> Path:
    """One layer, in a storage of its own that goes with the folder."""
    made = folder / "image.tar"
    podman = ("podman", f"--root={folder}/storage", f"--runroot={folder}/run", "--storage-driver=vfs")
    changes = configuration((PARTS / "Dockerfile").read_text(encoding="utf-8"))
    options = [f"--change={change}" for change in changes]
    version = name.rpartition(":")[2]
    labels = (f"version={version}", f"revision={_revision()}", f"ref.name={name}")
    options += [f"--change=LABEL org.opencontainers.image.{label}" for label in labels]
    _run(*podman, "import", "--quiet", *options, str(folder / "system.tar"), name)
    _run(*podman, "save", "--quiet", "--format=oci-archive", f"--output={made}", name)
    return made


def _revision() -> str:
    asked = ("git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def _put(made: Path, to: Path) -> Path:
    new = to.with_name(f".{to.name}.{os.getpid()}")
    try:
        subprocess.run(("cp", str(made), str(new)), check=True)
        return new.replace(to)
    finally:
        new.unlink(missing_ok=True)


def _run(*argv: str) -> None:
    done = subprocess.run(argv, check=False, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        told = done.stdout.decode(errors="replace").strip().splitlines()[-15:]
        sys.exit("\n".join([f"Error: {shlex.join(argv[:4])} ... ended with {done.returncode}:", *told]))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
