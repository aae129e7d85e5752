"""Field masks over flows: only what a client asks for is sent.

A policy verdict cannot be read without its direction, match type and policies, which the genuine command shows but does
not ask for by default: so those come along with `event_type`.
"""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf.descriptor import Descriptor

from pycilium.errors import CiliumError
from pycilium.hubble.columns import TYPE_POLICY_VERDICT
from pycilium.hubble.flow import FILLED_FIELDS
from pycilium.hubble.proto import flow_pb2

_WITH_VERDICTS = frozenset(
    {
        "traffic_direction",
        "policy_match_type",
        "drop_reason_desc",
        "egress_allowed_by",
        "ingress_allowed_by",
        "egress_denied_by",
        "ingress_denied_by",
    }
)


class FieldMaskError(CiliumError):
    """A field mask names a field that flows do not have."""


class FlowMask:
    """Clears what a mask leaves out."""

    def __init__(self, paths: Iterable[str]) -> None:
        wanted: dict[str, set[str]] = {}
        whole: set[str] = set()
        for path in paths:
            names = _checked(path)
            if len(names) == 1:
                whole.add(names[0])
            else:
                wanted.setdefault(names[0], set()).add(names[1])
        fields = flow_pb2.Flow.DESCRIPTOR.fields_by_name
        self._cleared = sorted(FILLED_FIELDS - whole - wanted.keys())
        self._nested = [
            (name, _others(fields[name].message_type, kept)) for name, kept in wanted.items() if name not in whole
        ]
        shown = _WITH_VERDICTS if "event_type" in whole else frozenset()
        self._cleared_of_verdicts = [name for name in self._cleared if name not in shown]

    def apply(self, flow: flow_pb2.Flow) -> None:
        is_verdict = flow.event_type.type == TYPE_POLICY_VERDICT
        for name in self._cleared_of_verdicts if is_verdict else self._cleared:
            flow.ClearField(name)  # type: ignore[arg-type]
        for name, inner_names in self._nested:
            if flow.HasField(name):  # type: ignore[arg-type]
                inner = getattr(flow, name)
                for inner_name in inner_names:
                    inner.ClearField(inner_name)


def _others(message: Descriptor | None, kept: set[str]) -> list[str]:
    return [name for name in message.fields_by_name if name not in kept] if message is not None else []


def _checked(path: str) -> list[str]:
    """The parts of a path, at most two of which count: deeper ones bring their parent."""
    descriptor: Descriptor | None = flow_pb2.Flow.DESCRIPTOR
    names = path.split(".")
    for position, name in enumerate(names):
        field = descriptor.fields_by_name.get(name) if descriptor is not None else None
        if field is None:
            raise FieldMaskError(f"field_mask: flow.Flow has no field {'.'.join(names[: position + 1])!r}")
        if field.is_repeated and position + 1 < len(names):
            raise FieldMaskError(f"field_mask: {'.'.join(names[: position + 1])!r} is a list: name it as a whole")
        descriptor = field.message_type
    return names[:2]
