"""The program `loopback`: turns a sandbox's `lo` on, per CNI. containerd starts it for every pod beside the plugin.

Most nodes have the reference one from their distribution, which is left alone; ours is for those that have none.
It needs no agent.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import sys

from pycilium.api.transport import decode_json, encode_json
from pycilium.cni import request as checks
from pycilium.cni.request import CniError
from pycilium.cni.result import in_version

_CLONE_NEWNET = 0x40000000
_SIOCGIFFLAGS, _SIOCSIFFLAGS = 0x8913, 0x8914
_IFF_UP = 1
_IFREQ = "16sh14x"


def main() -> None:
    """Serve one request and exit."""
    version = checks.NEWEST_VERSION
    try:
        command = checks.checked_command(os.environ)
        text = sys.stdin.read()
        if command == "VERSION":
            answer: dict[str, object] = {"cniVersion": version, "supportedVersions": list(checks.SUPPORTED_VERSIONS)}
        else:
            config = checks.checked_config(decode_json(text), command)
            version = config["cniVersion"]
            answer = _served(command, version)
    except CniError as error:
        answer = {"cniVersion": version, "code": error.code, "msg": error.message, "details": error.details}
    except (OSError, ValueError) as error:
        answer = {"cniVersion": version, "code": checks.IO_FAILURE, "msg": f"lo cannot be turned on: {error}"}
    if answer:
        sys.stdout.write(encode_json(answer))
    sys.exit("code" in answer)


def _served(command: str, version: str) -> dict[str, object]:
    """The answer: of ADD a result, of all else none. `lo` goes with its namespace, so DEL has nothing to do."""
    if command not in ("ADD", "CHECK"):
        return {}
    netns = checks.checked_environment(os.environ, command)["netns"]
    _enter(netns)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        flags: int = struct.unpack(_IFREQ, fcntl.ioctl(asking, _SIOCGIFFLAGS, struct.pack(_IFREQ, b"lo", 0)))[1]
        if command == "CHECK":
            if not flags & _IFF_UP:
                raise CniError(checks.IO_FAILURE, f"lo in {netns} is down")
            return {}
        fcntl.ioctl(asking, _SIOCSIFFLAGS, struct.pack(_IFREQ, b"lo", flags | _IFF_UP))
    interface = {"name": "lo", "mac": "00:00:00:00:00:00", "sandbox": netns}
    addresses = [{"interface": 0, "address": address} for address in ("127.0.0.1/8", "::1/128")]
    return in_version({"cniVersion": checks.NEWEST_VERSION, "interfaces": [interface], "ips": addresses}, version)


def _enter(netns: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
    if libc.setns(descriptor, _CLONE_NEWNET):
        code = ctypes.get_errno()
        raise OSError(code, f"{netns}: {os.strerror(code)}")


if __name__ == "__main__":
    main()
