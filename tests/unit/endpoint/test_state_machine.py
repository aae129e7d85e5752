"""What moves an endpoint from one state to the next."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pycilium.endpoint import TRANSITIONS, EndpointEvent, advance, next_state, restored
from pycilium.model.endpoint import EndpointState
from tests.unit.endpoint.builders import endpoint

EVENTS = st.lists(st.sampled_from(EndpointEvent), max_size=30)


def after(state: EndpointState, *events: EndpointEvent) -> EndpointState:
    for event in events:
        state = next_state(state, event)
    return state


def test_the_names_are_ciliums():
    assert {str(state) for state in EndpointState} == {
        "waiting-for-identity",
        "not-ready",
        "waiting-to-regenerate",
        "regenerating",
        "restoring",
        "ready",
        "disconnecting",
        "disconnected",
        "invalid",
    }


@pytest.mark.parametrize("first", [EndpointState.WAITING_FOR_IDENTITY, EndpointState.RESTORING])
def test_a_new_or_restored_endpoint_becomes_ready(first):
    events = (EndpointEvent.IDENTITY_KNOWN, EndpointEvent.REALIZE_STARTED, EndpointEvent.REALIZED)

    assert after(first, *events) is EndpointState.READY


def test_a_change_while_realizing_means_another_round():
    state = after(EndpointState.REGENERATING, EndpointEvent.POLICY_CHANGED, EndpointEvent.REALIZED)

    assert state is EndpointState.WAITING_TO_REGENERATE


def test_a_failure_is_tried_again():
    events = (EndpointEvent.REALIZE_FAILED, EndpointEvent.REALIZE_STARTED, EndpointEvent.REALIZED)

    assert after(EndpointState.REGENERATING, *events) is EndpointState.READY


def test_a_changed_label_asks_for_an_identity_again():
    assert after(EndpointState.READY, EndpointEvent.LABELS_CHANGED) is EndpointState.WAITING_FOR_IDENTITY


@pytest.mark.parametrize("state", EndpointState)
def test_an_endpoint_can_be_removed_in_every_state(state):
    final = after(state, EndpointEvent.DELETE_REQUESTED, EndpointEvent.GONE)

    assert final is EndpointState.DISCONNECTED


@given(EVENTS)
def test_what_is_leaving_never_returns(events):
    leaving = {EndpointState.DISCONNECTING, EndpointState.DISCONNECTED}

    assert after(EndpointState.DISCONNECTING, *events) in leaving


@given(st.sampled_from(EndpointState), EVENTS)
def test_ready_is_reached_by_having_been_realized_alone(state, events):
    for event in events:
        before, state = state, next_state(state, event)
        if state is EndpointState.READY and before is not EndpointState.READY:
            assert (before, event) == (EndpointState.REGENERATING, EndpointEvent.REALIZED)


def test_every_state_is_reached_and_every_event_means_something():
    entered = {EndpointState.WAITING_FOR_IDENTITY, EndpointState.RESTORING}

    assert entered | set(TRANSITIONS.values()) == set(EndpointState)
    assert {event for _, event in TRANSITIONS} == set(EndpointEvent)


def test_an_event_without_meaning_leaves_the_very_same_object():
    ready = endpoint(state=EndpointState.READY)

    assert advance(ready, EndpointEvent.GONE) is ready
    assert advance(ready, EndpointEvent.POLICY_CHANGED) == endpoint(state=EndpointState.WAITING_TO_REGENERATE)


@pytest.mark.parametrize("state", EndpointState)
def test_a_restart_takes_up_what_was_and_goes_on_removing_what_was_being_removed(state):
    leaving = state in (EndpointState.DISCONNECTING, EndpointState.DISCONNECTED)
    expected = EndpointState.DISCONNECTING if leaving else EndpointState.RESTORING

    assert restored(endpoint(state=state)) == endpoint(state=expected)
