"""The life of an endpoint: its states, and its form in a file."""

from pycilium.endpoint.codec import decode_endpoint, encode_endpoint
from pycilium.endpoint.state_machine import TRANSITIONS, EndpointEvent, advance, next_state, restored

__all__ = ["TRANSITIONS", "EndpointEvent", "advance", "decode_endpoint", "encode_endpoint", "next_state", "restored"]
