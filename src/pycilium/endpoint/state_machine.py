"""The states of an endpoint and what moves it from one to the next. Pure.

    created ──▶ waiting-for-identity ──▶ waiting-to-regenerate ──▶ regenerating ──▶ ready
                        ▲                      ▲        ▲            │   │            │
    restored ─▶ restoring ─────────────────────┘        │            │   └▶ not-ready │
                        └── labels changed ◀── any      └─ policy changed ◀───────────┘

    any ──▶ disconnecting ──▶ disconnected          waiting-for-identity, restoring ──▶ invalid

The table is the whole truth: an event that it does not list for a state comes too late or too early, is nobody's
fault, and changes nothing. So events may be delivered in any order and more than once.
`ready` is reached from `regenerating` alone: only what has been realized in the kernel is ready.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from pycilium.model.endpoint import Endpoint, EndpointState


class EndpointEvent(enum.Enum):
    """What happens to an endpoint."""

    IDENTITY_KNOWN = "identity known"
    LABELS_CHANGED = "labels changed"
    """Its identity no longer holds."""
    POLICY_CHANGED = "policy changed"
    """What is desired for it differs from what is realized."""
    REALIZE_STARTED = "realize started"
    REALIZED = "realized"
    """The kernel has everything that was desired when the realization started."""
    REALIZE_FAILED = "realize failed"
    REJECTED = "rejected"
    """It can never be realized, for its interface or its address is not (any more) its own."""
    DELETE_REQUESTED = "delete requested"
    GONE = "gone"
    """Nothing of it is left in the kernel."""


def _transitions() -> Mapping[tuple[EndpointState, EndpointEvent], EndpointState]:
    state, event = EndpointState, EndpointEvent
    table = {
        (state.WAITING_FOR_IDENTITY, event.IDENTITY_KNOWN): state.WAITING_TO_REGENERATE,
        (state.WAITING_FOR_IDENTITY, event.REJECTED): state.INVALID,
        (state.WAITING_TO_REGENERATE, event.REALIZE_STARTED): state.REGENERATING,
        (state.WAITING_TO_REGENERATE, event.LABELS_CHANGED): state.WAITING_FOR_IDENTITY,
        (state.REGENERATING, event.REALIZED): state.READY,
        (state.REGENERATING, event.REALIZE_FAILED): state.NOT_READY,
        (state.REGENERATING, event.POLICY_CHANGED): state.WAITING_TO_REGENERATE,
        (state.REGENERATING, event.LABELS_CHANGED): state.WAITING_FOR_IDENTITY,
        (state.READY, event.POLICY_CHANGED): state.WAITING_TO_REGENERATE,
        (state.READY, event.LABELS_CHANGED): state.WAITING_FOR_IDENTITY,
        (state.NOT_READY, event.REALIZE_STARTED): state.REGENERATING,
        (state.NOT_READY, event.POLICY_CHANGED): state.WAITING_TO_REGENERATE,
        (state.NOT_READY, event.LABELS_CHANGED): state.WAITING_FOR_IDENTITY,
        (state.RESTORING, event.IDENTITY_KNOWN): state.WAITING_TO_REGENERATE,
        (state.RESTORING, event.REJECTED): state.INVALID,
        (state.DISCONNECTING, event.GONE): state.DISCONNECTED,
    }
    final = {state.DISCONNECTING, state.DISCONNECTED}
    table |= {(each, event.DELETE_REQUESTED): state.DISCONNECTING for each in state if each not in final}
    return MappingProxyType(table)


TRANSITIONS = _transitions()


def next_state(state: EndpointState, event: EndpointEvent) -> EndpointState:
    """The state after `event`; `state` itself where the event means nothing."""
    return TRANSITIONS.get((state, event), state)


def advance(endpoint: Endpoint, event: EndpointEvent) -> Endpoint:
    """`endpoint` after `event`; the very same object where nothing changes."""
    state = next_state(endpoint.state, event)
    return endpoint if state is endpoint.state else replace(endpoint, state=state)


def restored(endpoint: Endpoint) -> Endpoint:
    """`endpoint` as an agent takes it up after a restart: restoring, unless it was already on its way out."""
    leaving = endpoint.state in (EndpointState.DISCONNECTING, EndpointState.DISCONNECTED)
    return replace(endpoint, state=EndpointState.DISCONNECTING if leaving else EndpointState.RESTORING)
