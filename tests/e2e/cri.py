"""A client of the CRI, as a kubelet is one: pods without Kubernetes. `cri.proto` has what of the interface is used.

Run it in a containerd's namespaces: `python -m tests.e2e.cri SOCKET METHOD JSON` prints the answer as JSON.
"""

from __future__ import annotations

import json
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import json_format
from grpc_tools import protoc

SERVICE = "/runtime.v1.RuntimeService"


def call(socket: str, method: str, **fields: Any) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        assert protoc.main(["protoc", f"-I{Path(__file__).parent}", f"--python_out={folder}", "cri.proto"]) == 0
        sys.path.insert(0, folder)
        messages = import_module("cri_pb2")
    request = json_format.ParseDict(fields, getattr(messages, f"{method}Request")())
    with grpc.insecure_channel(f"unix://{socket}") as channel:
        ask = channel.unary_unary(
            f"{SERVICE}/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=getattr(messages, f"{method}Response").FromString,
        )
        return json_format.MessageToDict(ask(request, timeout=60), preserving_proto_field_name=True)


if __name__ == "__main__":
    print(json.dumps(call(sys.argv[1], sys.argv[2], **json.loads(sys.argv[3]))))
