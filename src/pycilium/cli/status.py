"""`cilium status`: is the node healthy, or the cluster? For people by default; `-o json` has Cilium's shape.

This is a node's; `cluster_status` is a cluster's.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import click

from pycilium.cli.durations import seconds
from pycilium.cli.health_report import cluster_health
from pycilium.cli.render import output_option, print_json, progress
from pycilium.cli.service_status import kube_proxy_details, kube_proxy_text, service_lines, services_text
from pycilium.cli.target import Target, pass_target, place_options
from pycilium.errors import AgentUnavailable

_POLL_S = 0.5
HONEYCOMB = (
    "    /¯¯\\    ",
    " /¯¯\\__/¯¯\\ ",
    " \\__/¯¯\\__/ ",
    " /¯¯\\__/¯¯\\ ",
    " \\__/¯¯\\__/ ",
    "    \\__/    ",
)


@dataclass(frozen=True, slots=True)
class Report:
    """What the agent said, judged. An agent that does not answer is an error like any other."""

    answer: dict[str, Any]
    endpoints: list[dict[str, Any]]
    health: dict[str, Any]
    """What the health API says; empty where health checking is off."""
    errors: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return not self.errors and not self.warnings


@click.command()
@click.option("--wait", is_flag=True, help="Wait until there is neither an error nor a warning.")
@click.option(
    "--wait-duration", type=seconds, default="5m", show_default=True, metavar="DURATION", help="How long to wait."
)
@click.option("--ignore-warnings", is_flag=True, help="Only errors count.")
@click.option("--verbose", is_flag=True, help="Of a node: with all that is wrong, and what answers and is announced.")
@output_option("json", "summary")
@place_options
@pass_target
def status(
    target: Target,
    wait: bool,
    wait_duration: float,
    ignore_warnings: bool,
    verbose: bool,
    output: str | None,
) -> None:
    """Show whether the cluster works, or the node. Exit code 0: yes; 1: there are errors, or --wait ran out."""
    if place := target.cluster:
        from pycilium.cli import cluster_status

        cluster_status.run(place, wait_duration if wait else None, ignore_warnings=ignore_warnings, output=output)
    report = _wait(target, wait_duration, ignore_warnings) if wait else _report(target)
    if output == "json":
        if not report.answer:
            raise AgentUnavailable(report.errors[0])
        print_json(report.answer)
    else:
        _print_report(report, verbose=verbose)
    counts = report.errors or (wait and not ignore_warnings and report.warnings)
    sys.exit(1 if counts else 0)


def _wait(target: Target, wait_s: float, ignore_warnings: bool) -> Report:
    deadline = time.monotonic() + wait_s
    with progress("waiting for the node") as tell:
        said = ""
        while True:
            report = _report(target)
            if report.ok or (ignore_warnings and not report.errors) or time.monotonic() >= deadline:
                return report
            if (now := "; ".join((*report.errors, *report.warnings))) != said:
                tell(now)
                said = now
            time.sleep(_POLL_S)


def _report(target: Target) -> Report:
    try:
        agent = target.agent()
        answer, endpoints = agent.status(), agent.endpoints()
        checked = ((answer.get("cluster") or {}).get("ciliumHealth") or {}).get("state", "Disabled") != "Disabled"
        health = target.health().status() if checked else {}
    except AgentUnavailable as error:
        return Report({}, [], {}, (str(error),), ())
    errors, warnings = [], []
    for part in ("cilium", "hubble", "operator", "kubernetes", "kvstore"):
        state = (answer.get(part) or {}).get("state", "")
        message = f"{part}: {(answer.get(part) or {}).get('msg') or state}"
        if state == "Failure":
            errors.append(message)
        elif state == "Warning":
            warnings.append(message)
    for controller in answer.get("controllers") or []:
        detail = controller.get("status") or {}
        if detail.get("consecutive-failure-count"):
            errors.append(f"controller {controller['name']} is failing: {detail.get('last-failure-msg', '')}")
    unready = [endpoint["id"] for endpoint in endpoints if endpoint["status"]["state"] != "ready"]
    if unready:
        warnings.append(f"{len(unready)} endpoint(s) not ready: {', '.join(map(str, unready))}")
    return Report(answer, endpoints, health, tuple(errors), tuple(warnings))


def _print_report(report: Report, *, verbose: bool) -> None:
    answer = report.answer
    lines = [
        ("Cilium", _state(answer.get("cilium")) if answer else "not running"),
        ("Hubble", _state(answer.get("hubble"))),
        ("Operator", operator_text(answer.get("operator"))),
        ("Envoy", "disabled"),
        ("Hubble Relay", "disabled"),
        ("ClusterMesh", "disabled"),
    ]
    for picture, (name, state) in zip(HONEYCOMB, lines, strict=True):
        click.echo(f"{picture}  {name + ':':<16}{state}")
    click.echo("")
    for name, value in _details(report):
        click.echo(f"{name + ':':<22}{value}")
    for line in _announcements(report) if verbose else ():
        click.echo(line)
    for word, messages in (("Errors", report.errors), ("Warnings", report.warnings)):
        for message in messages:
            click.echo(f"{word + ':':<22}{message}")
    if verbose:
        click.echo("".join(f"{line}\n" for line in (*service_lines(answer), *kube_proxy_details(answer))), nl=False)
    if report.health:
        click.echo("")
        click.echo("\n".join(cluster_health(report.health, verbose=verbose)))


def _announcements(report: Report) -> list[str]:
    """What this node announces on its links, and what others do that it may announce too."""
    lines = []
    for each in report.answer.get("l2-announcements") or []:
        who = "this node" if each.get("announcing") else "another node"
        addresses, devices = " ".join(each.get("addresses") or []), " ".join(each.get("devices") or [])
        lines.append(f"{'L2 announcement:':<22}{addresses} on {devices} by {who} (lease {each['lease']})")
    return lines


def _store(answer: Mapping[str, Any]) -> Any:
    """Where resources live: the one of the two that is in use."""
    kubernetes = answer.get("kubernetes") or {}
    return answer.get("kvstore") if kubernetes.get("state", "Disabled") == "Disabled" else kubernetes


def _details(report: Report) -> list[tuple[str, str]]:
    answer = report.answer
    if not answer:
        return []
    ready = sum(endpoint["status"]["state"] == "ready" for endpoint in report.endpoints)
    controllers = answer.get("controllers") or []
    failing = sum(bool((entry.get("status") or {}).get("consecutive-failure-count")) for entry in controllers)
    details = [
        (
            "Node",
            f"{answer.get('node-name', '')} (version {answer.get('version', '')}, kernel {answer.get('kernel', '')})",
        ),
        ("Datapath", f"{answer.get('datapath-mode', '')}, attached by {answer.get('attach-mode', '')}"),
        ("Acceleration", answer.get("acceleration", "")),
        ("Endpoints", f"{ready}/{len(report.endpoints)} ready"),
        ("IPAM", (answer.get("ipam") or {}).get("status", "")),
        ("Masquerading", masquerading_text(answer)),
        ("KubeProxyReplacement", kube_proxy_text(answer)),
        ("Services", services_text(answer)),
        ("Controllers", f"{len(controllers) - failing}/{len(controllers)} healthy"),
        ("Flows", _flows(answer)),
        ("Store", _state(_store(answer))),
        ("Health", "" if report.health else "disabled"),
    ]
    return [(name, value) for name, value in details if value]


def masquerading_text(answer: dict[str, Any]) -> str:
    """As Cilium says it: `BPF [IPv4: Enabled, IPv6: Enabled]`; empty if the agent does not say."""
    part = answer.get("masquerading")
    if part is None:
        return ""
    if not part.get("enabled"):
        return "Disabled"
    families = part.get("enabledProtocols") or {}
    words = [f"{name}: {'Enabled' if families.get(name.lower()) else 'Disabled'}" for name in ("IPv4", "IPv6")]
    return f"{part.get('mode', '')} [{', '.join(words)}]"


def _flows(answer: dict[str, Any]) -> str:
    observer = (answer.get("hubble") or {}).get("observer") or {}
    lost = (answer.get("nodeMonitor") or {}).get("lost", 0)
    if not observer.get("max-flows"):
        return ""
    current = observer.get("current-flows", 0)
    share = 100 * current / observer["max-flows"]
    return f"{current}/{observer['max-flows']} ({share:.1f}%), {observer.get('seen-flows', 0)} seen, {lost} lost"


def operator_text(part: dict[str, Any] | None) -> str:
    """`OK, leader operator1`."""
    leader = (part or {}).get("leader")
    return f"{_state(part)}, leader {leader}" if leader else _state(part)


def _state(part: dict[str, Any] | None) -> str:
    if not part:
        return "disabled"
    word = {"Ok": "OK", "Disabled": "disabled"}.get(part["state"], part["state"])
    return f"{word} ({part['msg']})" if part.get("msg") and word != "OK" else word
