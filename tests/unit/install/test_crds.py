"""CRDs are what Kubernetes takes, and no laxer than our decoding."""

from __future__ import annotations

import msgspec
import pytest

from pycilium.install.crds import COLUMNS, SCHEMA_VERSION, VERSION_LABEL, definitions, is_newer
from pycilium.model.resources import KINDS

DEFINITIONS = {each["spec"]["names"]["kind"]: each for each in definitions()}


def parts(schema, path=""):
    yield path, schema
    for name, inner in schema.get("properties", {}).items():
        yield from parts(inner, f"{path}.{name}")
    for name in ("items", "additionalProperties"):
        if name in schema:
            yield from parts(schema[name], f"{path}[]")


@pytest.mark.parametrize("kind", DEFINITIONS)
def test_schemas_are_structural(kind):
    """Every part says its type, and none mixes fields of its own with fields of any name."""
    for version in DEFINITIONS[kind]["spec"]["versions"]:
        for path, part in parts(version["schema"]["openAPIV3Schema"]):
            assert "type" in part or part.get("x-kubernetes-int-or-string"), path
            assert not ("properties" in part and "additionalProperties" in part), path
            assert not {"$ref", "anyOf", "$defs"} & part.keys(), path


@pytest.mark.parametrize("kind", DEFINITIONS)
def test_schemas_know_every_field_that_we_decode_and_require_what_we_do(kind):
    resource = next(each.resource for each in KINDS if each.name == kind)
    schema = DEFINITIONS[kind]["spec"]["versions"][0]["schema"]["openAPIV3Schema"]

    fields = msgspec.structs.fields(resource)

    assert set(schema["properties"]) == {field.encode_name for field in fields}
    assert set(schema.get("required", ())) == {field.encode_name for field in fields if field.required} - {"metadata"}


def test_one_version_is_stored_and_names_are_ciliums():
    for kind, definition in DEFINITIONS.items():
        spec = definition["spec"]
        assert definition["metadata"]["name"] == f"{spec['names']['plural']}.{spec['group']}"
        assert [each["storage"] for each in spec["versions"]].count(True) == 1
        assert "cilium" in spec["names"]["categories"], kind
    assert DEFINITIONS["CiliumNetworkPolicy"]["spec"]["names"]["shortNames"] == ["cnp", "ciliumnp"]
    assert "subresources" not in DEFINITIONS["CiliumEndpoint"]["spec"]["versions"][0]


def test_columns_are_of_kinds_that_there_are():
    assert COLUMNS.keys() <= DEFINITIONS.keys()


@pytest.mark.parametrize(("label", "newer"), [("", False), (SCHEMA_VERSION, False), ("1.9.0", False), ("99.0", True)])
def test_a_later_version_is_not_taken_back(label, newer):
    assert is_newer({"metadata": {"labels": {VERSION_LABEL: label}}}) is newer
