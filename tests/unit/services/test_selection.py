"""Selectors and pods, whatever comes first, against a comparison of each with each."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pycilium.services.selection import Selection
from tests.unit.services.builders import pod

NAMESPACES = ["a", "b"]
some_labels = st.dictionaries(st.sampled_from(["app", "tier", "x"]), st.sampled_from("12"))
some_step = st.one_of(
    st.tuples(st.just("service"), st.sampled_from(NAMESPACES), st.integers(0, 3), st.none() | some_labels),
    st.tuples(st.just("pod"), st.sampled_from(NAMESPACES), st.integers(0, 3), st.none() | some_labels),
)


@given(st.lists(some_step, max_size=30))
def test_a_selector_selects_what_has_all_its_labels(steps):
    selection, selectors, pods = Selection(), {}, {}
    for kind, namespace, number, labels in steps:
        name = (namespace, f"{kind}-{number}")
        if kind == "service":
            selection.set_selector(name, labels)
            selectors[name] = labels
        else:
            before = {service: found(selectors, pods, service) for service in selectors}
            pods.pop(name, None)
            if labels is not None:
                pods[name] = pod(name[1], "10.0.0.1", str(labels), namespace=namespace)
            touched = selection.set_pod(name, pods.get(name))
            changed = {service for service in selectors if found(selectors, pods, service) != before[service]}
            assert changed <= touched
    for service in selectors:
        assert {(each.namespace, each.name) for each in selection.selected(service)} == set(
            found(selectors, pods, service)
        )


def found(selectors, pods, service):
    wanted = selectors[service]
    if not wanted:
        return {}
    asked = {(f"k8s:{key}", value) for key, value in wanted.items()}
    return {
        name: each.labels
        for name, each in pods.items()
        if name[0] == service[0] and asked <= each.labels.to_map().items()
    }
