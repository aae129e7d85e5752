"""One source, two ways in: what Helm makes of the chart is what `cilium install` applies."""

from __future__ import annotations

import json
import re

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pycilium.errors import ConfigError
from pycilium.install import chart
from pycilium.install.kubernetes_manifests import objects, trees
from pycilium.install.settings import from_options, paths, values_of
from pycilium.install.templates import Text
from pycilium.install.values import MEANINGS, defaults
from pycilium.testing.chart_templates import rendered

NAMESPACE = "kube-system"
TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Cn"]), max_size=12)
"""YAML has no characters that are none, as U+FFFE."""
SETTINGS = {
    "image.digest": st.sampled_from(["", "sha256:abc"]),
    "image.repository": TEXTS,
    "imagePullSecrets": st.sampled_from([[], [{"name": "registry"}]]),
    "cluster.name": st.sampled_from(["default", "a-1"]),
    "k8sServiceHost": st.sampled_from(["", "10.0.0.1", "fd00::1"]),
    "k8sServicePort": st.sampled_from(["", "6443", 6443]),
    "kubeProxyReplacement": st.sampled_from([True, False, "true", "false"]),
    "ipv4.enabled": st.booleans(),
    "ipv6.enabled": st.booleans(),
    "cni.install": st.booleans(),
    "hubble.enabled": st.booleans(),
    "hubble.eventBufferCapacity": st.integers(0, 999_999),
    "operator.enabled": st.booleans(),
    "operator.replicas": st.integers(0, 9),
    "cgroup.autoMount.enabled": st.booleans(),
    "devices": st.lists(TEXTS, max_size=3),
    "podAnnotations": st.dictionaries(TEXTS, TEXTS, max_size=2),
    "resources": st.sampled_from([{}, {"limits": {"cpu": 2, "memory": "1Gi"}}]),
    "tolerations": st.sampled_from([[], [{"operator": "Exists", "effect": "NoSchedule"}]]),
}


TEMPLATES = chart.templates()


def by_helm(values):
    texts = (rendered(text, values, NAMESPACE) for text in TEMPLATES.values())
    documents = (yaml.load(text, Loader=yaml.CSafeLoader) for text in texts)
    return {(each["kind"], each["metadata"]["name"]): each for each in documents if each}


def by_us(values):
    return {(each["kind"], each["metadata"]["name"]): each for each in objects(values, NAMESPACE)}


def layer(chosen):
    plain = {}
    for path, value in chosen.items():
        *parents, last = path.split(".")
        holder = plain
        for parent in parents:
            holder = holder.setdefault(parent, {})
        holder[last] = value
    return plain


@settings(max_examples=30, deadline=None)
@given(st.fixed_dictionaries({}, optional=SETTINGS))
def test_helm_and_we_make_the_same_objects(chosen):
    values = values_of(layer(chosen))

    assert by_helm(values) == by_us(values)


def test_the_defaults_of_the_chart_are_ours():
    assert yaml.safe_load(chart.files()["values.yaml"]) == defaults()


def test_the_chart_is_one_that_ciliums_clients_take():
    """They refuse versions that are no semver, or below 1.16."""
    version = yaml.safe_load(chart.files()["Chart.yaml"])["version"]

    found = re.fullmatch(r"(\d+)\.(\d+)\.(\d+)(\+[0-9A-Za-z.-]+)?", version)

    assert found is not None
    assert (int(found[1]), int(found[2])) >= (1, 16)


def test_values_that_become_texts_are_none_that_helm_would_write_with_an_exponent():
    schema = chart.values_schema()

    for path in sorted(set(_texts(trees()))):
        shape = schema
        for name in path.split("."):
            shape = shape["properties"][name]
        for each in shape.get("anyOf", [shape]):
            assert each["type"] in ("string", "boolean") or each["maximum"] < 10**6, path


def test_every_value_is_there_and_closed_in_the_schema():
    schema = chart.values_schema()

    assert schema["additionalProperties"] is False
    assert set(schema["required"]) == set(schema["properties"]) == set(defaults())


def test_every_meaning_is_of_a_value():
    assert set(MEANINGS) <= set(paths(defaults()))


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("ipam.mod=kubernetes", "unknown value 'ipam.mod' (did you mean mode?)"),
        ("clusterPoolIPv4MaskSize=24", "there is ipam.operator.clusterPoolIPv4MaskSize"),
        ("ipam.mode=eni", "ipam.mode: 'eni' is not one of cluster-pool, kubernetes"),
        ("hubble.relay.enabled=true", "hubble.relay.enabled is not built yet: it must be false"),
        ("operator.replicas=null", "operator.replicas is null: leave it out to have its default"),
        ("operator.replicas", "must be NAME=VALUE"),
    ],
)
def test_what_cannot_be_set_is_refused_by_its_name(option, said):
    with pytest.raises(ConfigError) as refused:
        values_of(from_options([option]))

    assert said in str(refused.value)


def test_options_are_read_as_helm_reads_them():
    assert from_options([r"a.b=1,a.c=true,d={x,y},e[0].f=g\,h,i\.j=007"]) == {
        "a": {"b": 1, "c": True},
        "d": ["x", "y"],
        "e": [{"f": "g,h"}],
        "i.j": "007",
    }


def test_mappings_that_are_users_own_take_any_name():
    assert values_of({"nodeSelector": {"pool": "a"}})["nodeSelector"] == {"kubernetes.io/os": "linux", "pool": "a"}


def _texts(tree):
    if isinstance(tree, Text):
        yield tree.path
    elif isinstance(tree, dict):
        for inner in tree.values():
            yield from _texts(inner)
    elif isinstance(tree, list | tuple):
        for inner in tree:
            yield from _texts(inner)
    elif hasattr(tree, "then"):
        yield from _texts([tree.then, tree.otherwise])


def test_the_schema_is_json():
    assert json.loads(chart.files()["values.schema.json"]) == chart.values_schema()
