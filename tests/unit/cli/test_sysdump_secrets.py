"""What goes into an archive has no secret, and still says what the matter is."""

from __future__ import annotations

import json

import pytest

from pycilium.cli.sysdump.secrets import REMOVED, Secrets

KEY = "-----BEGIN RSA PRIVATE KEY-----\nMIIplanted\n-----END RSA PRIVATE KEY-----"
JWT = "eyJhbGciOiJSUzI1NiIsImtpZCI6In0.eyJpc3MiOiJrdWJl.planted"

TEXTS = [
    f"a log line\n{KEY}\nmore",
    "-----BEGIN PRIVATE KEY-----\nplanted, and cut off",
    f"sent {JWT} to",
    "Authorization: Bearer planted-token",
    "authorization=Basic cGxhbnRlZA== planted".replace(" planted", ""),
    "postgres://user:planted@db/x",
    "password=planted",
    'password: "planted with blanks"',
    '{"dbPassword":"planted"}',
    "DB_PASSWORD='planted'",
    "api-key: planted",
    "--token=planted",
    "client_secret = planted",
]


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_has_no_secret(text):
    cleaned = Secrets().out_of_text(text)

    assert "planted" not in cleaned
    assert "cGxhbnRlZA" not in cleaned


@pytest.mark.parametrize(
    "text",
    [
        "level=info msg=ready node=node1 seconds=1.2",
        "the token is not accepted; secretName: web-tls",
        "serviceAccountToken path=/var/run/secrets/kubernetes.io/serviceaccount/token",
        "10.0.0.1:8080 -> 10.0.0.2:53 to-endpoint FORWARDED",
        "key 10.0.0.1/32 value identity=1 token_ttl_seconds=3600",
    ],
)
def test_a_text_without_one_stays_as_it_is(text):
    assert Secrets().out_of_text(text) == text


def test_a_long_text_is_read_once_not_from_each_of_its_letters():
    text = "a" * 1_000_000 + "password" * 10_000 + "eyJ" * 10_000

    assert Secrets().out_of_text(text) == text


def test_what_is_known_to_be_secret_goes_wherever_it_stands():
    assert Secrets(["hush-hush"]).out_of({"a": ["say hush-hush now"]}) == {"a": [f"say {REMOVED} now"]}


def test_a_secrets_data_goes_and_its_keys_stay():
    secret = {"kind": "Secret", "metadata": {"name": "s"}, "data": {"tls.key": "cGxhbnQ="}, "stringData": {"a": "b"}}

    assert Secrets().out_of(secret) == {
        "kind": "Secret",
        "metadata": {"name": "s"},
        "data": {"tls.key": REMOVED},
        "stringData": {"a": REMOVED},
    }


def test_of_other_programs_containers_neither_arguments_nor_environment_stay():
    web = {
        "name": "web",
        "image": "web:1",
        "args": ["--pw", "planted"],
        "command": ["sh", "-c", "planted"],
        "env": [{"name": "URL", "value": "planted"}, {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s"}}}],
        "ports": [{"containerPort": 80}],
    }

    assert Secrets().out_of({"containers": [web]}) == {
        "containers": [
            {
                "name": "web",
                "image": "web:1",
                "args": REMOVED,
                "command": REMOVED,
                "env": [{"name": "URL", "value": REMOVED}, {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s"}}}],
                "ports": [{"containerPort": 80}],
            }
        ]
    }


def test_of_our_containers_arguments_and_known_environment_stay():
    agent = {
        "name": "cilium-agent",
        "image": "cilium:1",
        "args": ["--config-dir=/tmp/cilium/config-map"],
        "env": [{"name": "KUBERNETES_SERVICE_HOST", "value": "192.0.2.1"}, {"name": "MY_PASS", "value": "planted"}],
    }

    cleaned = Secrets().out_of(agent)

    assert cleaned["args"] == ["--config-dir=/tmp/cilium/config-map"]
    assert [each["value"] for each in cleaned["env"]] == ["192.0.2.1", REMOVED]


def test_of_annotations_those_stay_that_concern_networks():
    annotations = {
        "kubectl.kubernetes.io/last-applied-configuration": '{"data": "planted"}',
        "vault.example.com/token": "planted",
        "service.cilium.io/type": "LoadBalancer",
    }

    assert Secrets().out_of({"annotations": annotations}) == {"annotations": {"service.cilium.io/type": "LoadBalancer"}}


def test_values_of_entries_that_are_called_secret_go_at_any_depth():
    config = {"hubble": {"tls": {"ca.key": "planted"}, "enabled": True}, "adminPassword": "planted", "secretName": "s"}

    cleaned = Secrets().out_of(config)

    assert "planted" not in json.dumps(cleaned)
    assert cleaned["secretName"] == "s"
