"""Which endpoints the selectors of Services select, kept up to date.

A selector asks for labels that must all be there, so each one is kept by one of its labels, and each label set by all
of its own: a change looks only at what has a label in common. Pods of one label set are selected together, so they are
kept by it. Invariant: `selected` is what a comparison of every pod of the namespace with the selector would find.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Hashable, Iterator, Mapping, MutableMapping
from typing import TypeVar

from pycilium.model.labels import K8S_SOURCE, Labels
from pycilium.model.remote_endpoint import RemoteEndpoint

K = TypeVar("K", bound=Hashable)
V = TypeVar("V", bound=Hashable)

Name = tuple[str, str]
_Label = tuple[str, str, str]
"""Namespace, key, value."""
_LabelSet = tuple[str, Labels]
"""Namespace and labels."""


class Selection:
    """Owns selectors and pods, and finds the ones for the others."""

    def __init__(self) -> None:
        self._selectors: dict[Name, frozenset[tuple[str, str]]] = {}
        self._services_by_label: defaultdict[_Label, set[Name]] = defaultdict(set)
        self._pods: dict[Hashable, RemoteEndpoint] = {}
        self._pods_by_set: dict[_LabelSet, dict[Hashable, None]] = {}
        """Dictionaries, for the small ones are a third of a set's size, and there are thousands."""
        self._sets_by_label: defaultdict[_Label, set[_LabelSet]] = defaultdict(set)

    def set_selector(self, service: Name, selector: Mapping[str, str] | None) -> None:
        """A Service selects so now; none and an empty one select nothing."""
        before = self._selectors.pop(service, None)
        if before:
            _discard(self._services_by_label, (service[0], *min(before)), service)
        if selector:
            wanted = self._selectors[service] = frozenset(selector.items())
            self._services_by_label[service[0], *min(wanted)].add(service)

    def set_pod(self, key: Hashable, pod: RemoteEndpoint | None) -> set[Name]:
        """A pod is so now, or gone; returns the Services that select it, or did."""
        before = self._pods.pop(key, None)
        touched: set[Name] = set()
        if before is not None:
            touched.update(self._selecting(before.namespace, before.labels))
            self._leave((before.namespace, before.labels), key)
        if pod is not None:
            touched.update(self._selecting(pod.namespace, pod.labels))
            self._pods[key] = pod
            self._join((pod.namespace, pod.labels), key)
        return touched

    def on_nodes(self, references: Container[str]) -> set[Name]:
        """The Services that select a pod which calls its node by one of these."""
        if not self._selectors:
            return set()
        sets = {(pod.namespace, pod.labels) for pod in self._pods.values() if pod.node in references}
        return {service for each in sets for service in self._selecting(*each)}

    def selected(self, service: Name) -> Iterator[RemoteEndpoint]:
        """The pods that a Service selects, in no order."""
        wanted = self._selectors.get(service)
        if not wanted:
            return
        rarest = min((self._sets_by_label.get((service[0], *label), set()) for label in wanted), key=len)
        for each in rarest:
            if wanted <= _matching(each[1]):
                for key in self._pods_by_set[each]:
                    yield self._pods[key]

    def _selecting(self, namespace: str, labels: Labels) -> Iterator[Name]:
        if not self._selectors:
            return
        matching = _matching(labels)
        for label in matching:
            for service in self._services_by_label.get((namespace, *label), ()):
                if self._selectors[service] <= matching:
                    yield service

    def _join(self, of: _LabelSet, key: Hashable) -> None:
        known = self._pods_by_set.get(of)
        if known is not None:
            known[key] = None
        else:
            self._pods_by_set[of] = {key: None}
            for label in _matching(of[1]):
                self._sets_by_label[of[0], *label].add(of)

    def _leave(self, of: _LabelSet, key: Hashable) -> None:
        known = self._pods_by_set[of]
        del known[key]
        if not known:
            del self._pods_by_set[of]
            for label in _matching(of[1]):
                _discard(self._sets_by_label, (of[0], *label), of)


def _matching(labels: Labels) -> set[tuple[str, str]]:
    """What selectors of Services look at: Kubernetes' own."""
    return {(label.key, label.value) for label in labels if label.source == K8S_SOURCE}


def _discard(index: MutableMapping[K, set[V]], key: K, value: V) -> None:
    index[key].discard(value)
    if not index[key]:
        del index[key]
