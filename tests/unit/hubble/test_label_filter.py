from __future__ import annotations

import pytest

from pycilium.hubble.label_filter import SelectorSyntaxError, parse_label_selector

LABELS = ("k8s:app=web", "k8s:io.kubernetes.pod.namespace=shop", "reserved:host", "cidr:10.0.0.0/8", "k8s:empty=")


def holds(selector: str) -> bool:
    return all(part.matches(LABELS) for part in parse_label_selector(selector))


@pytest.mark.parametrize(
    "selector",
    [
        "app=web",
        "app==web",
        "app = web",
        "k8s:app=web",
        "any:app=web",
        "app",
        "reserved:host",
        "host",
        "cidr:10.0.0.0/8",
        "io.kubernetes.pod.namespace=shop",
        "app!=db",
        "tier!=db",
        "!tier",
        "app in (db, web)",
        "app in (db,web),!tier",
        "tier notin (a)",
        "app notin (a,b)",
        "empty=",
        "",
    ],
)
def test_holds(selector: str) -> None:
    assert holds(selector)


@pytest.mark.parametrize(
    "selector",
    [
        "app=db",
        "reserved:app",
        "k8s:app=w",
        "!app",
        "app!=web",
        "app in (db)",
        "app notin (web)",
        "app=web,tier",
        "empty=x",
    ],
)
def test_does_not_hold(selector: str) -> None:
    assert not holds(selector)


@pytest.mark.parametrize(
    ("selector", "complaint"),
    [
        ("a in (", "a value is expected"),
        ("a in b", "values in parentheses are expected"),
        ("a in (b", "a closing parenthesis is expected"),
        ("a b", "one of = == != in notin is expected after 'a', not 'b'"),
        ("=x", "a key is expected, not '='"),
        ("a,,b", "a key is expected, not ','"),
        ("a,", "a requirement is expected after the last comma"),
        ("a=b c", "a comma is expected between requirements"),
        ("a=b;c", "unexpected ';'"),
        ("!", "a key is expected"),
    ],
)
def test_what_cannot_be_read_is_refused_with_what_is_expected(selector: str, complaint: str) -> None:
    with pytest.raises(SelectorSyntaxError) as caught:
        parse_label_selector(selector)

    assert str(caught.value) == f"{selector!r}: {complaint}"
