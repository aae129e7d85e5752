#!/usr/bin/env python3
"""Try the datapath on other kernels: each is booted under qemu, on this machine's own files, and runs our tests.

    make kernels                                  all of them
    tools/kernel_matrix.py 6.1 --only programs    one, and one check

Kernels are Debian's packages, fetched once into a cache folder (70 to 100 MB each); nothing is installed. A virtual
machine sees /usr, /etc, the Python and this checkout over 9p, read-only; what it writes goes to its memory and is gone
with it. It has no network. Without KVM the processor is emulated, and one kernel takes half an hour.

Needs: x86-64, Debian or Ubuntu, qemu-system-x86, busybox-static, debian-archive-keyring, and `make build` before.
"""

from __future__ import annotations

import argparse
import gzip
import json
import lzma
import os
import platform
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kernel_guest import CHECKS, ENDED, MARK

ROOT = Path(__file__).resolve().parent.parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "pycilium-kernels"
ARCHIVE = "http://deb.debian.org/debian"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
SUITES = {"5.10": "bullseye", "6.1": "bookworm", "6.12": "bookworm-backports"}
"""5.10 is the oldest that we support; 6.1 has no tcx links, 6.12 has."""
EARLY_MODULES = ("virtio_pci", "9p", "9pnet_virtio", "overlay")
"""What it takes to see the shared folders; everything else the kernel loads by itself when asked for."""
MEMORY_MB, CPUS = 3072, 2

TOP = tuple(path for name in ("bin", "sbin", "lib", "lib32", "lib64") if (path := Path("/", name)).exists())
"""Links into /usr on most systems."""

INIT = """#!/busybox sh
/busybox mkdir -p /proc /sys /dev /run /tmp /var/tmp /root /lower /upper
/busybox mount -t proc proc /proc
/busybox mount -t sysfs sys /sys
/busybox mount -t devtmpfs dev /dev
/busybox mkdir -p /dev/pts /dev/shm
/busybox mount -t devpts devpts /dev/pts
/busybox mount -t tmpfs shm /dev/shm
/busybox mount -t tmpfs run /run
/busybox mount -t tmpfs upper /upper
/busybox mount -t cgroup2 cgroup /sys/fs/cgroup
/busybox ln -s /run /var/run
/busybox chmod 1777 /tmp /var/tmp
for module in $(/busybox cat /early/order); do /busybox insmod /early/$module || echo "cannot load $module"; done
while read tag path; do
    /busybox mkdir -p $path /lower/$tag /upper/$tag /upper/$tag.work
    /busybox mount -t 9p -o trans=virtio,version=9p2000.L,ro,cache=loose,msize=262144 $tag /lower/$tag
    /busybox mount -t overlay -o lowerdir=/lower/$tag,upperdir=/upper/$tag,workdir=/upper/$tag.work $tag $path ||
        echo "cannot mount $path"
done < /shares
echo /modprobe > /proc/sys/kernel/modprobe
/busybox ip link set lo up
/busybox hostname kernel-matrix
export PATH=/usr/local/bin:/usr/bin:/usr/sbin:/bin:/sbin HOME=/root LANG=C.UTF-8 TERM=dumb
cd @ROOT@
/bin/sh -c @COMMAND@
echo "@ENDED@$?"
echo o > /proc/sysrq-trigger
/busybox sleep 60
"""


class Failure(Exception):
    """Said to the user as it is."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel on disk, ready to boot."""

    name: str
    release: str
    image: Path
    modules: Path
    """A folder as it would stand in /usr/lib/modules."""


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__), formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kernels", nargs="*", metavar="KERNEL", help=f"which of {', '.join(SUITES)}; by default all")
    parser.add_argument("--only", action="append", choices=list(CHECKS), help="this check alone; may be repeated")
    parser.add_argument("--cache", type=Path, default=CACHE, help="where kernels are kept (%(default)s)")
    parser.add_argument("--run", metavar="COMMAND", help="run this shell command in the machine instead of the checks")
    parser.add_argument("--time-limit", type=int, default=7200, metavar="SECONDS", help="per kernel (%(default)s)")
    options = parser.parse_args()
    for name in options.kernels:
        if name not in SUITES:
            parser.error(f"there is no kernel {name} here: choose from {', '.join(SUITES)}")
    try:
        require()
        bad = [name for name in options.kernels or SUITES if not try_kernel(fetch(name, options.cache), options)]
    except Failure as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return 1 if bad else 0


def require() -> None:
    if platform.machine() != "x86_64":
        raise Failure(f"the kernel matrix knows only x86-64, and this is {platform.machine()}")
    programs = {"qemu-system-x86_64": "qemu-system-x86", "busybox": "busybox-static", "apt-get": "", "dpkg-deb": ""}
    missing = [package or program for program, package in programs.items() if shutil.which(program) is None]
    if not Path(KEYRING).exists():
        missing.append("debian-archive-keyring")
    if missing:
        words = " ".join(missing)
        raise Failure(f"this machine lacks {words}: sudo apt-get install --no-install-recommends {words}")
    if not (ROOT / ".venv/bin/python").exists():
        raise Failure("there is no .venv here: run make build first")


def has_kvm() -> bool:
    """Whether it is worth a try: without the processor's own means some machines offer a /dev/kvm that hangs."""
    flags = Path("/proc/cpuinfo").read_text().split()
    return os.access("/dev/kvm", os.R_OK | os.W_OK) and ("vmx" in flags or "svm" in flags)


# == kernels ==


def fetch(name: str, cache: Path) -> Kernel:
    """The newest kernel of its suite, or the one that was fetched before."""
    home = cache / name
    if not (home / "ready").exists():
        shutil.rmtree(home, ignore_errors=True)
        (home / "root").mkdir(parents=True)
        print(f"Fetching Linux {name} from Debian {SUITES[name]} ...", flush=True)
        package = download(SUITES[name], home)
        run(["dpkg-deb", "--extract", str(package), str(home / "root")])
        package.unlink()
        tree = next((home / "root/lib/modules").iterdir())
        decompress_modules(tree)
        run(["busybox", "depmod", "-b", str(home / "root"), tree.name])
        (home / "ready").touch()
    modules = home / "root/lib/modules"
    release = next(modules.iterdir()).name
    return Kernel(name, release, home / f"root/boot/vmlinuz-{release}", modules)


def download(suite: str, home: Path) -> Path:
    """The .deb, verified by apt with lists of its own: this machine's sources stay as they are."""
    (home / "apt/lists/partial").mkdir(parents=True)
    (home / "apt/cache").mkdir()
    sources = home / "apt/sources.list"
    sources.write_text(f"deb [arch=amd64 signed-by={KEYRING}] {ARCHIVE} {suite} main\n")
    settings = {
        "Dir::Etc::sourcelist": sources,
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::State::lists": home / "apt/lists",
        "Dir::State::status": "/dev/null",
        "Dir::Cache": home / "apt/cache",
        "APT::Architecture": "amd64",
        "APT::Sandbox::User": "root" if os.geteuid() == 0 else "",
    }
    apt = [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]
    run(["apt-get", *apt, "update"])
    shown = run(["apt-cache", *apt, "show", "--no-all-versions", "linux-image-amd64"])
    depends = next(line for line in shown.splitlines() if line.startswith("Depends:"))
    package = depends.removeprefix("Depends:").split(",")[0].split("(")[0].strip()
    run(["apt-get", *apt, "download", package], cwd=home)
    shutil.rmtree(home / "apt")
    return next(home.glob("*.deb"))


def decompress_modules(tree: Path) -> None:
    for packed in list(tree.rglob("*.ko.xz")):
        packed.with_suffix("").write_bytes(lzma.decompress(packed.read_bytes()))
        packed.unlink()


def with_dependencies(kernel: Kernel, wanted: Sequence[str]) -> list[Path]:
    """Module files in the order in which they can be loaded; what is built in has none."""
    tree = kernel.modules / kernel.release
    needs: dict[str, list[str]] = {}
    for line in (tree / "modules.dep").read_text().splitlines():
        path, _, others = line.partition(":")
        needs[path] = others.split()
    by_name = {Path(path).stem.replace("-", "_"): path for path in needs}
    ordered: dict[str, None] = {}

    def add(path: str) -> None:
        for other in needs[path]:
            if other not in ordered:
                add(other)
        ordered[path] = None

    for name in wanted:
        if name in by_name:
            add(by_name[name])
    return [tree / path for path in ordered]


# == one run ==


def shares(kernel: Kernel) -> dict[str, tuple[Path, str]]:
    """Tag → what of this machine, and where the virtual one sees it."""
    python = Path(run([str(ROOT / ".venv/bin/python"), "-c", "import sys; print(sys.base_prefix)"]).strip())
    found = [Path("/usr"), Path("/etc")]
    for path in (*(path for path in TOP if not path.is_symlink()), python, ROOT):
        if not any(path.is_relative_to(other) for other in found):
            found.append(path)
    listed = {f"share{number}": (path, str(path)) for number, path in enumerate(found)}
    return {**listed, "modules": (kernel.modules, "/lib/modules")}


def initramfs(kernel: Kernel, command: str) -> bytes:
    """What is in memory before the shares are: busybox, the first modules, and the script that does everything."""
    early = with_dependencies(kernel, EARLY_MODULES)
    words = {"@ROOT@": shlex.quote(str(ROOT)), "@ENDED@": ENDED, "@COMMAND@": shlex.quote(command)}
    script = INIT
    for word, stands_for in words.items():
        script = script.replace(word, stands_for)
    files: dict[str, tuple[int, bytes]] = {
        "init": (stat.S_IFREG | 0o755, script.encode()),
        "busybox": (stat.S_IFREG | 0o755, Path(shutil.which("busybox") or "/bin/busybox").read_bytes()),
        "modprobe": (stat.S_IFLNK | 0o777, b"/busybox"),
        "shares": (stat.S_IFREG | 0o644, "".join(f"{tag} {to}\n" for tag, (_, to) in shares(kernel).items()).encode()),
        "early": (stat.S_IFDIR | 0o755, b""),
        "early/order": (stat.S_IFREG | 0o644, "\n".join(path.name for path in early).encode()),
        "dev": (stat.S_IFDIR | 0o755, b""),
    }
    files |= {f"early/{path.name}": (stat.S_IFREG | 0o644, path.read_bytes()) for path in early}
    files |= {path.name: (stat.S_IFLNK | 0o777, os.readlink(path).encode()) for path in TOP if path.is_symlink()}
    return gzip.compress(archive(files), 1)


def archive(files: dict[str, tuple[int, bytes]]) -> bytes:
    """A cpio archive ("newc") of name → mode and content."""
    parts: list[bytes] = []
    for inode, (name, (mode, content)) in enumerate([*files.items(), ("TRAILER!!!", (0, b""))], start=1):
        raw = name.encode() + b"\0"
        fields = (inode, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(raw), 0)
        header = b"070701" + b"".join(b"%08X" % field for field in fields) + raw
        parts += [header + bytes(-len(header) % 4), content + bytes(-len(content) % 4)]
    return b"".join(parts)


def qemu(kernel: Kernel, scratch: Path, command: str) -> list[str]:
    (scratch / "initramfs").write_bytes(initramfs(kernel, command))
    folders = [
        word
        for tag, (path, _) in shares(kernel).items()
        for word in (
            "-virtfs",
            f"local,path={path},mount_tag={tag},security_model=none,readonly=on,multidevs=remap",
        )
    ]
    # Linux looks whether its timer ticks in time, and ends where the emulated processor waits for its turn.
    words = "console=ttyS0 quiet panic=-1 mitigations=off no_timer_check rdinit=/init"
    acceleration = ["-accel", "kvm", "-cpu", "host"] if has_kvm() else ["-accel", "tcg,thread=multi", "-cpu", "max"]
    return [
        *("qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio"),
        *acceleration,
        *("-m", str(MEMORY_MB), "-smp", str(CPUS), "-kernel", str(kernel.image), "-initrd", str(scratch / "initramfs")),
        *("-append", words),
        *folders,
    ]


def lines_of(kernel: Kernel, command: str, log: Path, time_limit_s: int) -> Iterator[str]:
    """The machine's console, line by line, until it is off; all of it goes to `log` as well."""
    with tempfile.TemporaryDirectory(prefix="kernel-matrix-") as scratch, log.open("w") as kept:
        words = ["timeout", "--kill-after=5", str(time_limit_s), *qemu(kernel, Path(scratch), command)]
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        with subprocess.Popen(words, **pipes) as machine:
            try:
                for raw in machine.stdout:
                    line = raw.decode(errors="replace").rstrip("\r\n")
                    kept.write(line + "\n")
                    kept.flush()
                    yield line
            finally:
                machine.terminate()


def try_kernel(kernel: Kernel, options: argparse.Namespace) -> bool:
    """Boots it, and prints what each check says as it comes."""
    print(f"\nLinux {kernel.release} ({'KVM' if has_kvm() else 'emulated: this takes long'})", flush=True)
    log = options.cache / f"{kernel.name}.log"
    wanted = options.only or list(CHECKS)
    command = options.run or f".venv/bin/python tools/kernel_guest.py {' '.join(wanted)}"
    lines = lines_of(kernel, command, log, options.time_limit)
    good = command_passed(lines) if options.run else checks_passed(lines, wanted)
    if not good:
        print(f"  the whole console: {log}")
    return good


def command_passed(lines: Iterable[str]) -> bool:
    """Prints what a machine's console says; a machine that ends before the command does has not passed."""
    code = None
    for line in lines:
        if line.startswith(ENDED):
            code = line.removeprefix(ENDED).strip()
        else:
            print(line, flush=True)
    if code != "0":
        print(f"  FAILED {'the machine ended before the command did' if code is None else f'exit code {code}'}")
    return code == "0"


def checks_passed(lines: Iterable[str], wanted: Sequence[str]) -> bool:
    """The same of the checks: each has to come, and to pass, and the machine to last until the end."""
    said: dict[str, bool] = {}
    has_ended = False
    for line in lines:
        has_ended |= line.startswith(ENDED)
        if line.startswith(MARK):
            result = json.loads(line.removeprefix(MARK))
            said[result["check"]] = result["passed"]
            word = "ok" if result["passed"] else "FAILED"
            print(f"  {word:<7}{result['check']:<10}{result['summary']} ({result['seconds']} s)", flush=True)
            for failure in result["failures"]:
                print(f"           {failure}")
    for missing in [check for check in wanted if check not in said]:
        print(f"  FAILED {missing:<10}the machine did not come to it")
    if not has_ended:
        print("  FAILED the machine ended before it was told to")
    return has_ended and all(said.get(check) for check in wanted)


def run(words: Sequence[str], cwd: Path | None = None) -> str:
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Failure(f"{' '.join(words)} failed:\n{(done.stderr or done.stdout).strip()}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
