"""Rights: what the parts ask of the store, no more; and nobody may do everything."""

from __future__ import annotations

import ast
from pathlib import Path

import pycilium
from pycilium.install.kubernetes_access import GRANTS
from pycilium.model.resources import KINDS

SOURCE = Path(pycilium.__file__).parent
KIND_NAMES = {kind.name: kind for kind in KINDS}


def followed(package):
    """The kinds that a package's sources follow: what it gives to Source or to the store's list."""
    found = set()
    for path in (SOURCE / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) in (
                "Source",
                "list",
            ):
                found |= {each.id for each in node.args if isinstance(each, ast.Name) and each.id in KIND_NAMES}
    return found


def readable(account):
    return {
        (rule.group, resource)
        for grant in GRANTS
        if grant.account == account
        for rule in grant.rules
        if "list" in rule.verbs
        for resource in rule.resources
    }


def missing(package, account):
    kinds = [KIND_NAMES[name] for name in followed(package)]
    wanted = {(kind.api_version.rpartition("/")[0], kind.plural) for kind in kinds}
    return wanted - readable(account)


def test_agents_may_read_what_they_follow():
    assert len(followed("agent")) > 5
    assert missing("agent", "cilium") == set()


def test_operators_may_read_what_they_follow():
    assert len(followed("operator")) > 3
    assert missing("operator", "cilium-operator") == set()


def test_no_rule_is_for_everything_and_each_has_its_reason():
    for grant in GRANTS:
        for rule in grant.rules:
            assert "*" not in (*rule.resources, *rule.verbs, rule.group)
            assert rule.why


def test_nobody_reads_secrets():
    assert not [rule for grant in GRANTS for rule in grant.rules if "secrets" in rule.resources]
