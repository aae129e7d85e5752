"""Generates the Python modules of our .proto files, beside them: Hubble's API, and what we say to etcd and containerd.

tools/gen_proto.py           write them
tools/gen_proto.py --check   exit 1 if what is committed differs from what would be written
"""

from __future__ import annotations

import argparse
import shutil
import sys
import sysconfig
import tempfile
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "src"
PACKAGES = (Path("pycilium/hubble/proto"), Path("pycilium/store/etcd/proto"), Path("pycilium/agent/runtimes/proto"))


def generate(target: Path) -> list[Path]:
    """Writes the modules below `target` and returns their paths relative to it."""
    protos = [path for package in PACKAGES for path in sorted((SOURCES / package).glob("*.proto"))]
    plugin = shutil.which("protoc-gen-mypy", path=sysconfig.get_path("scripts"))
    if plugin is None:
        sys.exit("protoc-gen-mypy is missing: install the project with its dev extra")
    arguments = [
        "protoc",
        f"--proto_path={SOURCES}",
        f"--proto_path={files('grpc_tools') / '_proto'}",
        f"--plugin=protoc-gen-mypy={plugin}",
        f"--python_out={target}",
        f"--grpc_python_out={target}",
        f"--mypy_out=quiet:{target}",
        *(str(path) for path in protos),
    ]
    if protoc.main(arguments) != 0:
        sys.exit("protoc failed")
    for proto in protos:
        if "\nservice " not in proto.read_text():
            (target / proto.relative_to(SOURCES)).with_name(f"{proto.stem}_pb2_grpc.py").unlink()
    return sorted(path.relative_to(target) for path in target.rglob("*.py*"))


def differences(generated: Path, names: list[Path]) -> list[str]:
    """What of the committed modules is missing, stale or left over."""
    found = []
    for name in names:
        committed = SOURCES / name
        if not committed.exists():
            found.append(f"{name}: missing")
        elif committed.read_bytes() != (generated / name).read_bytes():
            found.append(f"{name}: differs")
    committed_names = {
        path.relative_to(SOURCES) for package in PACKAGES for path in (SOURCES / package).glob("*_pb2*.py*")
    }
    found += [f"{name}: no .proto file gives it" for name in sorted(committed_names - set(names))]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if something would change")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder)
        names = generate(target)
        if options.check:
            stale = differences(target, names)
            for line in stale:
                print(line, file=sys.stderr)
            if stale:
                print("run tools/gen_proto.py", file=sys.stderr)
            return 1 if stale else 0
        for name in names:
            shutil.copyfile(target / name, SOURCES / name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
