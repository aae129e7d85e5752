"""Which endpoints the selectors of Services select, kept up to date.

A selector asks for labels that must all be there, so each one is kept by one of its labels, and each pod by all of its
own: a change looks only at what has a label in common. Invariant: `selected` is what a comparison of every pod of the
namespace with the selector would find.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterator, Mapping

from pycilium.services.candidates import PodEndpoint

Name = tuple[str, str]
_Label = tuple[str, str, str]
"""Namespace, key, value."""


class Selection:
    """Owns selectors and pods, and finds the ones for the others."""

    def __init__(self) -> None:
        self._selectors: dict[Name, frozenset[tuple[str, str]]] = {}
        self._services_by_label: defaultdict[_Label, set[Name]] = defaultdict(set)
        self._pods: dict[Name, PodEndpoint] = {}
        self._pods_by_label: defaultdict[_Label, set[Name]] = defaultdict(set)

    def set_selector(self, service: Name, selector: Mapping[str, str] | None) -> None:
        """A Service selects so now; none and an empty one select nothing."""
        before = self._selectors.pop(service, None)
        if before:
            self._discard(self._services_by_label, (service[0], *min(before)), service)
        if selector:
            wanted = self._selectors[service] = frozenset(selector.items())
            self._services_by_label[service[0], *min(wanted)].add(service)

    def set_pod(self, name: Name, pod: PodEndpoint | None) -> set[Name]:
        """A pod is so now, or gone; returns the Services that select it, or did."""
        before = self._pods.pop(name, None)
        touched: set[Name] = set()
        if before is not None:
            touched.update(self._selecting(before))
            for label in before.matching:
                self._discard(self._pods_by_label, (before.namespace, *label), name)
        if pod is not None:
            self._pods[name] = pod
            touched.update(self._selecting(pod))
            for label in pod.matching:
                self._pods_by_label[pod.namespace, *label].add(name)
        return touched

    def on_nodes(self, references: Container[str]) -> set[Name]:
        """The Services that select a pod which calls its node by one of these."""
        pods = (pod for pod in self._pods.values() if pod.node in references)
        return {service for pod in pods for service in self._selecting(pod)}

    def selected(self, service: Name) -> Iterator[PodEndpoint]:
        """The pods that a Service selects, in no order."""
        wanted = self._selectors.get(service)
        if not wanted:
            return
        rarest = min((self._pods_by_label.get((service[0], *label), set()) for label in wanted), key=len)
        for name in rarest:
            pod = self._pods[name]
            if wanted <= pod.matching:
                yield pod

    def _selecting(self, pod: PodEndpoint) -> Iterator[Name]:
        for label in pod.matching:
            for service in self._services_by_label.get((pod.namespace, *label), ()):
                if self._selectors[service] <= pod.matching:
                    yield service

    @staticmethod
    def _discard(index: defaultdict[_Label, set[Name]], label: _Label, name: Name) -> None:
        index[label].discard(name)
        if not index[label]:
            del index[label]
