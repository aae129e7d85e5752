"""An endpoint as the API shows it."""

import msgspec

from pycilium.agent.views import endpoint_view
from pycilium.policy import PolicyEngine
from tests.unit.agent.test_controller import ENDPOINTS


def test_it_says_what_the_pod_calls_its_ports():
    shown = msgspec.json.decode(msgspec.json.encode(endpoint_view(ENDPOINTS[0], PolicyEngine(), ())))

    assert shown["status"]["namedPorts"] == [
        {"name": "dns", "port": 53, "protocol": "UDP"},
        {"name": "http", "port": 80, "protocol": "TCP"},
    ]
    assert "named_ports" not in shown["status"]
