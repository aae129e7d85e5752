"""JSON, and HTTP/1.1 over a unix socket, in as few imports as can be: the CNI plugin's start-up consists of them.

`json` and `socket` take 8 to 10 ms to import (regular expressions, enumerations), as long as the interpreter itself,
and a runtime starts the plugin anew for every pod. The C parts below them (`_json`, `_socket`) take less than 1 ms and
do all the work, so they are used as they are. Where an interpreter lacks them, and for what the C parser does not
accept, the modules that everybody knows are used: they also say best what is wrong with a text.
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing takes 5 ms; checkers know this name
if TYPE_CHECKING:
    from typing import Any

try:
    import _socket as socket
    from _json import encode_basestring_ascii, make_encoder, make_scanner
except ImportError:  # pragma: no cover
    import socket  # type: ignore[no-redef]

    make_scanner = None  # type: ignore[misc,assignment]

_BLOCK_BYTES = 1 << 16


class NoAnswerError(Exception):
    """Nothing answers on the socket, or not in time, or not in HTTP."""


def decode_json(text: str) -> Any:
    """The value that `text` holds. Raises ValueError, saying where it is no JSON."""
    text = text.strip(" \t\r\n")
    if make_scanner is not None:
        try:
            value, end = make_scanner(_Reading)(text, 0)  # type: ignore[arg-type]
        except RecursionError:
            raise ValueError("nested too deeply") from None
        except (StopIteration, SystemError, ValueError):
            pass  # what the scanner raises has no text without the json module
        else:
            if end == len(text):
                return value
    import json

    return json.loads(text, parse_constant=_Reading.parse_constant)


def encode_json(value: Any) -> str:
    """`value` as JSON in ASCII on one line. Raises TypeError for what JSON has no form for."""
    if make_scanner is not None:
        encoder = make_encoder(None, _refuse, encode_basestring_ascii, None, ": ", ", ", False, False, False)
        return "".join(encoder(value, 0))
    import json

    return json.dumps(value)


def somebody_listens(socket_path: str) -> bool:
    """Whether a process has that socket; a file that an ended one left does not count."""
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        probe.settimeout(1)
        probe.connect(socket_path)
    except OSError:
        return False
    finally:
        probe.close()
    return True


def exchange(
    socket_path: str, method: str, target: str, body: bytes = b"", timeout_s: float = 60.0
) -> tuple[int, bytes]:
    """One request on a connection of its own: status and body of the answer. Blocks. Raises NoAnswerError."""
    head = (
        f"{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(timeout_s)
        connection.connect(socket_path)
        connection.sendall(head.encode("ascii") + body)
        blocks = []
        while block := connection.recv(_BLOCK_BYTES):
            blocks.append(block)
    except TimeoutError as error:
        raise NoAnswerError(f"{socket_path}: no answer within {timeout_s:g} s") from error
    except OSError as error:
        raise NoAnswerError(f"{socket_path}: {error.strerror or error}") from error
    finally:
        connection.close()
    try:
        return _parse(b"".join(blocks))
    except ValueError as error:
        raise NoAnswerError(f"{socket_path}: {error}") from error


def _parse(answer: bytes) -> tuple[int, bytes]:
    head, separator, body = answer.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    words = lines[0].split(b" ", 2)
    if not separator or len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not words[1].isdigit():
        raise ValueError("the answer is cut off" if answer[:5] == b"HTTP/" or not answer else "the answer is not HTTP")
    for line in lines[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length" and int(value) != len(body):
            raise ValueError(f"the answer is cut off: {len(body)} of {int(value)} bytes")
        if name.strip().lower() == b"transfer-encoding":
            raise ValueError("the answer is chunked, which our server never does")
    return int(words[1]), body


def _refuse(value: object) -> object:
    raise TypeError(f"{type(value).__name__} has no form in JSON")


class _Reading:
    """How the scanner is to read: it asks for these attributes."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int

    @staticmethod
    def parse_constant(name: str) -> float:
        raise ValueError(f"{name} is not JSON")
