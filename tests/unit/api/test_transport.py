"""JSON and HTTP without the modules that are slow to import."""

import json
import socket
import subprocess
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pycilium.api.transport import NoAnswerError, decode_json, encode_json, exchange

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


class TestJson:
    @given(VALUES)
    def test_reads_and_writes_as_the_json_module_does(self, value):
        assert encode_json(value) == json.dumps(value)
        assert decode_json(json.dumps(value, indent=2)) == value

    @pytest.mark.parametrize(
        "text", ["", "{", "nope", "[1] x", "[1,]", "{'a': 1}", '{"a": }', "NaN", "[Infinity]", '"\n"']
    )
    def test_what_is_no_json_is_a_value_error_that_says_why(self, text):
        with pytest.raises(ValueError, match=r"."):
            decode_json(text)

    def test_endless_nesting_is_a_value_error(self):
        with pytest.raises(ValueError, match="nested too deeply"):
            decode_json("[" * 100_000)

    @pytest.mark.parametrize("value", [object(), float("nan")])
    def test_what_json_cannot_say_is_refused(self, value):
        with pytest.raises((TypeError, ValueError)):
            encode_json(value)

    def test_the_slow_modules_are_not_imported(self):
        """The plugin's start-up: see the module's docstring."""
        code = (
            "import sys, pycilium.api.client, pycilium.cni.plugin; from pycilium.api.transport import *;"
            "decode_json(encode_json({'a': [1]}));"
            "print({'json', 're', 'enum', 'socket', 'typing', 'msgspec', 'asyncio', 'http', 'logging'} & set(sys.modules))"
        )
        command = [sys.executable, "-S", "-c", f"import sys; sys.path[:0] = {sys.path!r}; {code}"]

        assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "set()"


def answering(path, answer):
    """A server that says `answer` once, whatever it was asked; what it was asked comes out when it is called."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    seen = []

    def serve():
        connection, _ = listener.accept()
        seen.append(connection.recv(65536))
        connection.sendall(answer)
        connection.close()
        listener.close()

    thread = threading.Thread(target=serve)
    thread.start()

    def asked():
        thread.join(5)
        return seen[0]

    return asked


class TestExchange:
    def test_sends_a_whole_request_and_returns_status_and_body(self, tmp_path):
        asked = answering(tmp_path / "s", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

        assert exchange(str(tmp_path / "s"), "POST", "/v1/x", b"body") == (200, b"ok")
        assert asked().startswith(b"POST /v1/x HTTP/1.1\r\n")
        assert asked().endswith(b"Content-Length: 4\r\n\r\nbody")

    @pytest.mark.parametrize(
        ("answer", "complaint"),
        [
            (b"", "cut off"),
            (b"HTTP/1.1 200 OK\r\nContent-Le", "cut off"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nok", "2 of 5 bytes"),
            (b"SSH-2.0-OpenSSH\r\n\r\n", "not HTTP"),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "chunked"),
        ],
        ids=["nothing", "half a header", "half a body", "another protocol", "chunked"],
    )
    def test_an_answer_that_is_no_whole_answer_is_none(self, tmp_path, answer, complaint):
        asked = answering(tmp_path / "s", answer)

        with pytest.raises(NoAnswerError, match=complaint):
            exchange(str(tmp_path / "s"), "GET", "/")
        asked()

    def test_no_socket_is_no_answer(self, tmp_path):
        with pytest.raises(NoAnswerError, match="No such file"):
            exchange(str(tmp_path / "s"), "GET", "/")

    def test_silence_is_no_answer(self, tmp_path):
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(tmp_path / "s"))
            listener.listen()

            with pytest.raises(NoAnswerError, match=r"no answer within 0\.05 s"):
                exchange(str(tmp_path / "s"), "GET", "/", timeout_s=0.05)
