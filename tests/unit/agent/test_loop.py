"""What the control loop says of entries that the kernel refuses."""

from __future__ import annotations

from structlog.testing import capture_logs

from pycilium.agent.intent import Intent
from pycilium.agent.loop import ControlLoop
from pycilium.reconcile import RoundResult, Status


class RefusedController:
    """Refuses whatever keys it is told to."""

    in_sync = True

    def __init__(self) -> None:
        self.refused: dict[str, list[int]] = {}

    def run(self, now):
        return RoundResult(updated=0, deleted=0, failed=sum(map(len, self.refused.values())), next_due=None)

    def failing(self):
        for name, keys in self.refused.items():
            for key in keys:
                yield name, key, Status("error", 0.0, OSError("no room"))


def logged(loop: ControlLoop) -> list[tuple[str, object]]:
    with capture_logs() as lines:
        loop.run_now()
    return [(line["target"], line.get("key", line.get("number"))) for line in lines]


def test_refused_entries_are_logged_a_few_per_target_and_again_only_when_they_change():
    controller = RefusedController()
    loop = ControlLoop(Intent.new(), controller)  # type: ignore[arg-type]
    loop.open()

    controller.refused = {"identity bits": list(range(1000)), "links": [1]}
    first, second = logged(loop), logged(loop)
    controller.refused["links"] = [2]
    third = logged(loop)
    controller.refused = {}
    fourth = logged(loop)
    controller.refused = {"links": [2]}
    fifth = logged(loop)

    assert first == [
        *(("identity bits", str(key)) for key in range(3)),
        ("identity bits", 997),
        ("links", "1"),
    ]
    assert second == []
    assert third == [("links", "2")]
    assert fourth == []
    assert fifth == [("links", "2")]
