"""containerd, asked through its socket: containers of `ctr` and nerdctl, and sandboxes of its CRI.

`ctr` and nerdctl call the plugin for a container that containerd knows, and name it `namespace-id`. The CRI calls it
before it tells containerd of the sandbox, so its labels are there a moment later, and before anything of the pod's own
runs in it: `tells_late`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pycilium.agent.runtimes.container import Container
from pycilium.errors import RuntimeUnreadable

if TYPE_CHECKING:
    import grpc

_CRI_NAMESPACE = "k8s.io"
_KIND, _SANDBOX = "io.cri-containerd.kind", "sandbox"
_NAME_OF_NERDCTL = "nerdctl/name"
_NAME_OF_POD = "io.kubernetes.pod.name"
_TIMEOUT_S = 2.0


class Containerd:
    """The containerd that listens at `socket`."""

    name = "containerd"
    tells_late = True

    def __init__(self, socket: str) -> None:
        self._socket = socket
        self._channel: grpc.aio.Channel | None = None

    @property
    def is_there(self) -> bool:
        """Its socket exists."""
        return os.path.exists(self._socket)

    async def container(self, container_id: str) -> Container | None:
        """By what a runtime calls it when it calls the plugin."""
        for namespace, name in _meanings(container_id):
            labels = await self._labels(namespace, name)
            if labels is not None:
                is_sandbox = namespace == _CRI_NAMESPACE and labels.get(_KIND) == _SANDBOX
                known = labels.get(_NAME_OF_POD if is_sandbox else _NAME_OF_NERDCTL)
                return Container(known or name, labels, is_sandbox=is_sandbox)
        return None

    async def close(self) -> None:
        if self._channel is not None:
            await self._channel.close()

    async def _labels(self, namespace: str, container_id: str) -> dict[str, str] | None:
        import grpc

        from pycilium.agent.runtimes.proto import containerd_pb2, containerd_pb2_grpc

        if self._channel is None:
            self._channel = grpc.aio.insecure_channel(f"unix://{self._socket}", [("grpc.enable_http_proxy", 0)])
        try:
            stub = containerd_pb2_grpc.ContainersStub(self._channel)  # type: ignore[no-untyped-call]
            answer = await stub.Get(
                containerd_pb2.GetContainerRequest(id=container_id),
                metadata=(("containerd-namespace", namespace),),
                timeout=_TIMEOUT_S,
            )
        except grpc.aio.AioRpcError as error:
            if error.code() in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT):
                return None
            raise RuntimeUnreadable(f"{self._socket}: {error.code().name}: {error.details()}") from error
        return dict(answer.container.labels)


def _meanings(container_id: str) -> Iterator[tuple[str, str]]:
    """Namespace and id, of which either may hold a '-'."""
    yield _CRI_NAMESPACE, container_id
    for place, character in enumerate(container_id):
        if character == "-" and 0 < place < len(container_id) - 1:
            yield container_id[:place], container_id[place + 1 :]
