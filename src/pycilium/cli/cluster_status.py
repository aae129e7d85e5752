"""`cilium status` of a cluster: asked, judged, waited for, shown as Cilium's own command shows it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from typing import Any

import click

from pycilium.cli.cluster import ClusterPlace
from pycilium.cli.render import print_json, progress
from pycilium.cli.status import HONEYCOMB
from pycilium.install.kubernetes_names import AGENT, OPERATOR
from pycilium.install.kubernetes_status import Assessment, Count, Message, assessed
from pycilium.install.kubernetes_survey import ENVOY, MESH, RELAY, Survey, survey
from pycilium.install.templates import Plain

_POLL_S = 2.0
_BOX = {AGENT: "Cilium", OPERATOR: "Operator", ENVOY: "Envoy DaemonSet", RELAY: "Hubble Relay", MESH: "ClusterMesh"}
_WIDTHS = (23, 23)


def run(place: ClusterPlace, wait_s: float | None, *, ignore_warnings: bool, output: str | None) -> None:
    """Shows it and ends the process: 0 if all is well, or nothing worse than warnings if nobody waits."""
    found, seen = asyncio.run(_awaited(place, wait_s, ignore_warnings=ignore_warnings))
    if output == "json":
        print_json(as_json(found, seen))
    else:
        click.echo("\n".join(lines(seen)))
    sys.exit(0 if seen.ok(ignore_warnings=ignore_warnings or wait_s is None) else 1)


async def _awaited(place: ClusterPlace, wait_s: float | None, *, ignore_warnings: bool) -> tuple[Survey, Assessment]:
    """Until all is well, time is up or waiting cannot help; without `wait_s` what is now."""
    async with place.reached() if wait_s is None else place.opened() as cluster:
        loop, said = asyncio.get_running_loop(), ""
        deadline = loop.time() + (wait_s or 0.0)
        with progress("waiting for Cilium") as tell:
            while True:
                found = await survey(cluster, place.namespace, place.release)
                seen = assessed(found)
                if wait_s is None or seen.ok(ignore_warnings=ignore_warnings) or loop.time() >= deadline:
                    return found, seen
                said = _tell(seen, said, tell)
                if seen.hopeless:
                    return found, seen
                await asyncio.sleep(_POLL_S)


def _tell(seen: Assessment, said: str, tell: Callable[[str], None]) -> str:
    """Says what is waited for, if it is not what was said before."""
    missing = [f"{each.pod}: {each.text}" for each in (*seen.errors, *seen.warnings)] + list(seen.failures)
    now = f"{missing[0]}{f' (and {len(missing) - 1} more)' if missing[1:] else ''}" if missing else ""
    if now != said:
        tell(now)
    return now


def lines(seen: Assessment) -> Iterator[str]:
    """For people."""
    box = [(f"{title}:", _summary(seen, name)) for name, title in _BOX.items()]
    for picture, (title, summary) in zip(HONEYCOMB, [("", ""), *box], strict=True):
        yield f"{picture}  {title:<19}{summary}".rstrip()
    yield ""
    for name, count in seen.counts.items():
        yield _row(count.kind, name, _counted(count))
    yield from _rows("Containers:", [(name, _phases(phases)) for name, phases in seen.phases.items()])
    yield _row("Cluster Pods:", f"{seen.managed}/{seen.pods} managed by Cilium")
    yield _row("Helm chart version:", seen.chart_version)
    images = [(name, f"{image}: {count}") for name, found in seen.images.items() for image, count in found.items()]
    yield from _rows("Image versions", images)
    yield from _rows("Configuration:", [(AGENT, text) for text in seen.config_errors])
    yield from _rows("Errors:", [(each.workload, f"{each.pod:<22} {each.text}") for each in seen.errors])
    yield from _rows("Warnings:", [(each.workload, f"{each.pod:<22} {each.text}") for each in seen.warnings])
    yield from _rows("Not looked at:", [(text, "") for text in seen.failures])


def as_json(found: Survey, seen: Assessment) -> Plain:
    """With the names that Cilium's command has."""
    messages: dict[str, dict[str, Plain]] = {}
    for kind, told in (("Errors", seen.errors), ("Warnings", seen.warnings)):
        for each in told:
            of_pod = messages.setdefault(each.workload, {}).setdefault(each.pod, _no_messages())
            of_pod[kind].append(each.text)
    for name in seen.disabled:
        messages.setdefault(name, {}).setdefault(name, _no_messages())["Disabled"] = True
    return {
        "image_count": seen.images,
        "phase_count": seen.phases,
        "pod_state": {name: _pod_state(count) for name, count in seen.counts.items()},
        "pods_count": {"all": seen.pods, "by_cilium": seen.managed},
        "cilium_status": {each.pod: each.status for each in found.answers},
        "errors": messages,
        "collection_errors": list(seen.failures),
        "config_errors": list(seen.config_errors),
        "helm_chart_version": seen.chart_version,
    }


def _no_messages() -> Plain:
    return {"Errors": [], "Warnings": [], "Disabled": False}


def _pod_state(count: Count) -> Plain:
    return {
        "Type": count.kind,
        "Desired": count.desired,
        "Ready": count.ready,
        "Available": count.available,
        "Unavailable": count.unavailable,
    }


def _summary(seen: Assessment, name: str) -> str:
    if name in seen.disabled:
        return "disabled (using embedded mode)" if name == ENVOY else "disabled"
    parts = [_number(seen.errors, name, "error"), _number(seen.warnings, name, "warning")]
    return ", ".join(filter(None, parts)) or "OK"


def _number(messages: Any, name: str, word: str) -> str:
    count = sum(isinstance(each, Message) and each.workload == name for each in messages)
    return f"{count} {word}{'s' if count > 1 else ''}" if count else ""


def _counted(count: Count) -> str:
    parts = [f"Desired: {count.desired}", f"Ready: {count.ready}/{count.desired}"]
    parts += [f"Available: {count.available}/{count.desired}"]
    parts += [f"Unavailable: {count.unavailable}/{count.desired}"] if count.unavailable else []
    return ", ".join(parts)


def _phases(phases: Any) -> str:
    return ", ".join(f"{phase}: {count}" for phase, count in sorted(phases.items()))


def _rows(title: str, rows: list[tuple[str, str]]) -> Iterator[str]:
    for number, cells in enumerate(rows):
        yield _row("" if number else title, *cells)


def _row(*cells: str) -> str:
    padded = (cell.ljust(width - 1) for cell, width in zip(cells, _WIDTHS, strict=False))
    return " ".join((*padded, *cells[len(_WIDTHS) :])).rstrip()
