"""From text to resources and back: structure, documents, lists, sources of errors."""

from __future__ import annotations

import json
import textwrap
from contextlib import suppress
from datetime import UTC, datetime

import msgspec
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pycilium.errors import InvalidResource
from pycilium.model.resources import (
    KINDS,
    CiliumEndpoint,
    CiliumEndpointSlice,
    CiliumIdentity,
    CiliumNetworkPolicy,
    CiliumNode,
    LabelSelector,
    Namespace,
    NetworkPolicy,
    ObjectMeta,
    Pod,
    decode_documents,
    decode_object,
    decode_stored,
    encode_json,
    encode_yaml,
    kind_for_word,
    kind_of,
    to_plain,
    validate,
)
from pycilium.model.resources.cilium_objects import AddressPair, EndpointNetworking

FULL_POLICY = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata:
  name: everything
  labels: {team: a}
specs:
- endpointSelector:
    matchLabels: {app: web, "k8s:io.kubernetes.pod.namespace": prod, "reserved:host": ""}
    matchExpressions:
    - {key: tier, operator: In, values: [front, back]}
    - {key: gone, operator: DoesNotExist}
  labels: [{key: name, value: x, source: k8s}]
  enableDefaultDeny: {ingress: false}
  description: all fields that there are
  log: {value: "look here"}
  ingress:
  - {}
  - fromEndpoints: []
  - fromEndpoints: [{}]
    toPorts:
    - ports: [{port: "80", protocol: TCP}, {port: http}, {port: "0"}, {protocol: GRE}]
  - fromCIDR: [10.0.0.0/8, "fd00::/8"]
  - fromCIDRSet: [{cidr: 10.0.0.0/8, except: [10.1.0.0/16]}, {cidrGroupRef: g}, {cidrGroupSelector: {}}]
  - fromEntities: [all, world, cluster, cluster-mesh, host, init, ingress, unmanaged, remote-node, health, none, kube-apiserver]
  - fromNodes: [{}]
  - fromGroups: [{aws: {securityGroupsIds: [sg-1], region: eu}}]
  - icmps: [{fields: [{type: 8}, {type: EchoRequest, family: IPv6}]}]
  - authentication: {mode: required}
    fromEndpoints: [{}]
    toPorts:
    - ports: [{port: "80", protocol: TCP}]
      terminatingTLS: {secret: {namespace: n, name: s}, trustedCA: ca.crt, certificate: c, privateKey: k}
      serverNames: ["*.example.org"]
      rules: {http: [{path: /x, method: GET, host: h, headers: ["A: b"], headerMatches: [{name: X, value: v, mismatch: LOG}]}]}
  ingressDeny:
  - toPorts: [{ports: [{port: "1", endPort: 65535, protocol: UDP}]}]
  egress:
  - toEndpoints: [{}]
  - toServices: [{k8sService: {serviceName: s, namespace: n}}, {k8sServiceSelector: {selector: {}, namespace: n}}]
  - toFQDNs: [{matchName: example.org}, {matchPattern: "*.example.org."}]
  - toPorts:
    - ports: [{port: "53", protocol: UDP}]
      rules: {dns: [{matchPattern: "*"}]}
    - ports: [{port: "443", protocol: TCP}]
      originatingTLS: {secret: {name: s}}
      listener: {envoyConfig: {kind: CiliumEnvoyConfig, name: e}, name: l, priority: 1}
  egressDeny:
  - toEntities: [world]
"""

POD = """
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  nodeName: node1
  serviceAccountName: robot
  containers:
  - {name: c, image: nginx, ports: [{name: http, containerPort: 80}, {containerPort: 81}]}
  - {name: d, ports: [{name: dns, containerPort: 53, protocol: UDP}]}
status: {podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}, {ip: "fd00::1"}]}
"""


def documents(*parts):
    return "---\n".join(parts)


def decode(text, source="file.yaml"):
    return decode_documents(textwrap.dedent(text), source)


def reason(text, source="file.yaml"):
    with pytest.raises(InvalidResource) as caught:
        decode(text, source)
    return str(caught.value)


class TestWhatIsRead:
    def test_every_field_of_a_policy_is_kept(self):
        (policy,) = decode(FULL_POLICY)

        assert to_plain(policy)["specs"] == _without_defaults(yaml.safe_load(FULL_POLICY)["specs"])

    def test_a_member_that_is_empty_differs_from_one_that_was_not_written(self):
        (policy,) = decode(FULL_POLICY)
        first, second = policy.specs[0].ingress[:2]

        assert first.from_endpoints is None
        assert second.from_endpoints == ()
        assert policy.specs[0].ingress[2].from_endpoints == (LabelSelector(),)

    def test_what_we_use_of_a_pod_is_at_hand_and_the_rest_is_kept(self):
        (pod,) = decode(POD)

        assert (pod.node_name, pod.service_account_name, pod.host_network) == ("node1", "robot", False)
        assert pod.named_ports == (("http", "TCP", 80), ("dns", "UDP", 53))
        assert pod.pod_ips == ("10.0.0.1", "fd00::1")
        assert pod.spec["containers"][0]["image"] == "nginx"

    def test_several_documents_lists_and_empty_ones(self):
        text = documents(
            "# nothing but a comment\n",
            POD,
            "\n",
            "{apiVersion: v1, kind: List, items: [{apiVersion: v1, kind: Namespace, metadata: {name: prod}}]}\n",
            "{apiVersion: v1, kind: PodList, metadata: {}, items: []}\n",
        )

        assert [str(resource.key) for resource in decode(text)] == ["Pod default/web", "Namespace prod"]

    def test_nothing_at_all_is_no_resource(self):
        assert decode("") == []
        assert decode("---\n---\n") == []

    def test_json_is_read_too(self):
        text = json.dumps({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "prod"}})

        assert decode(text, "file.json") == decode(text, "-") == decode("[" + text + "]")

    def test_yaml_in_flow_style_is_not_taken_for_broken_json(self):
        assert len(decode("{apiVersion: v1, kind: Namespace, metadata: {name: prod}}")) == 1

    def test_a_namespace_is_filled_in_where_one_is_needed(self):
        (pod,) = decode_documents(POD, namespace="prod")
        (unchanged,) = decode_documents(POD.replace("name: web,", "name: web, namespace: own,"), namespace="prod")
        (namespace,) = decode_documents("{apiVersion: v1, kind: Namespace, metadata: {name: x}}", namespace="prod")

        assert [each.metadata.namespace for each in (pod, unchanged, namespace)] == ["prod", "own", ""]

    def test_what_kubectl_prints_can_be_read_again(self):
        (pod,) = decode("""
            apiVersion: v1
            kind: Pod
            metadata:
              name: web
              creationTimestamp: "2026-01-02T03:04:05Z"
              deletionTimestamp: null
              generateName: web-
              managedFields: [{manager: kubectl}]
              ownerReferences: [{apiVersion: apps/v1, kind: ReplicaSet, name: web, uid: u, controller: true}]
              resourceVersion: "42"
              selfLink: /api/v1/pods/web
              uid: u2
            """)

        assert pod.metadata.creation_timestamp == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
        assert pod.metadata.owner_references[0].controller is True

    @pytest.mark.parametrize("value", ["12-30", "2026-01-02", "1e", "0o9", "08", "v1.10"])
    def test_text_that_other_readers_take_for_numbers_or_dates_stays_text(self, value):
        (namespace,) = decode(f"{{apiVersion: v1, kind: Namespace, metadata: {{name: x, labels: {{a: {value}}}}}}}")

        assert namespace.metadata.labels == {"a": value}

    def test_aliases_and_merges_are_followed(self):
        (namespace,) = decode("""
            apiVersion: v1
            kind: Namespace
            metadata:
              name: x
              annotations: &base {a: "1", b: "2"}
              labels:
                <<: *base
                b: "3"
            """)

        assert namespace.metadata.labels == {"a": "1", "b": "3"}


class TestRoundTrips:
    @pytest.mark.parametrize("text", [FULL_POLICY, POD], ids=["policy", "pod"])
    def test_encoding_and_decoding_give_the_same(self, text):
        (resource,) = decode(text)

        assert decode_documents(encode_yaml(resource)) == [resource]
        assert decode_documents(encode_json(resource).decode()) == [resource]
        assert decode_stored(kind_of(resource), encode_json(resource)) == resource
        assert decode_object(to_plain(resource)) == resource

    @settings(deadline=None)
    @given(
        st.dictionaries(
            st.from_regex(r"[a-z]{1,5}", fullmatch=True),
            st.from_regex(r"[A-Za-z0-9.:_+-]{0,8}", fullmatch=True) | st.text(max_size=20),
        )
    )
    def test_any_annotation_survives_yaml(self, annotations):
        namespace = Namespace(metadata=ObjectMeta(name="x", annotations=annotations))

        assert decode_documents(encode_yaml(namespace)) == [namespace]

    def test_several_resources_become_several_documents(self):
        resources = [Namespace(metadata=ObjectMeta(name=name)) for name in ("a", "b")]

        assert decode_documents(encode_yaml(*resources)) == resources

    def test_odd_names_on_the_wire(self):
        identity = CiliumIdentity(metadata=ObjectMeta(name="300"), security_labels={"k8s:app": "web"})
        text = """
            apiVersion: cilium.io/v2
            kind: CiliumNode
            metadata: {name: node1}
            spec: {instance-id: i, addresses: [{type: InternalIP, ip: 10.0.0.1}], ipam: {podCIDRs: [10.0.0.0/24], pre-allocate: 8}}
            """
        (node,) = decode(text)
        (endpoint,) = decode("""
            apiVersion: cilium.io/v2
            kind: CiliumEndpoint
            metadata: {name: web}
            status:
              id: 7
              external-identifiers: {cni-attachment-id: "x:eth0"}
              networking: {addressing: [{ipv4: 10.0.0.1}], node: 192.168.0.1}
              named-ports: [{name: http, port: 80, protocol: TCP}]
              policy: {ingress: {enforcing: true, allowed: [{identity-labels: {a: b}, dest-port: 80}]}}
              state: ready
              service-account: robot
            """)
        (slice_,) = decode("""
            apiVersion: cilium.io/v2alpha1
            kind: CiliumEndpointSlice
            metadata: {name: ces-1}
            namespace: default
            endpoints:
            - name: web
              id: 1000
              pod-uid: u
              networking: {addressing: [{ipv4: 10.0.0.1, ipv6: "fd00::1"}], node: 192.168.0.1}
              encryption: {key: 3}
              named-ports: [{name: http, port: 80, protocol: TCP}]
              service-account: robot
            """)

        assert json.loads(encode_json(identity))["security-labels"] == {"k8s:app": "web"}
        assert node.spec.ipam.pod_cidrs == ("10.0.0.0/24",)
        assert endpoint.status.policy.ingress.allowed[0].dest_port == 80
        assert isinstance(node, CiliumNode)
        assert isinstance(endpoint, CiliumEndpoint)
        assert isinstance(slice_, CiliumEndpointSlice)
        assert slice_.endpoints[0].networking == EndpointNetworking(
            addressing=(AddressPair(ipv4="10.0.0.1", ipv6="fd00::1"),), node="192.168.0.1"
        )
        for resource in (node, endpoint, identity, slice_):
            assert decode_documents(encode_yaml(resource)) == [resource]


class TestErrorsNameTheirPlace:
    def test_file_document_name_line_and_path(self):
        text = documents(POD, FULL_POLICY.replace('port: "1", endPort', 'port: "99999", endPort'))

        line = text[: text.index("99999")].count("\n") + 1
        assert reason(text, "policies/all.yaml") == (
            f"policies/all.yaml: document 2, CiliumNetworkPolicy everything, line {line}: "
            "specs[0].ingressDeny[0].toPorts[0].ports[0].port: port 99999 is impossible: it must be 0 to 65535"
        )

    def test_an_item_of_a_list_is_named(self):
        text = '{"apiVersion": "v1", "kind": "List", "items": [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"nam": "x"}}]}'

        assert reason(text, "x.json").startswith(
            "x.json: document 1, Namespace, items[0]: metadata.nam: unknown field (did you mean name?)"
        )

    def test_an_unknown_field_is_refused_with_the_nearest_known_one(self):
        message = reason(FULL_POLICY.replace("fromCIDRSet", "fromCidrSet"))

        assert (
            "specs[0].ingress[4].fromCidrSet: unknown field (did you mean fromCIDRSet?); known here: fromEndpoints,"
            in message
        )

    def test_an_unknown_kind_lists_the_known_ones(self):
        message = reason(POD.replace("kind: Pod", "kind: Pot"))

        assert "kind: unknown kind 'Pot' (did you mean Pod?); known kinds are Pod (po), Namespace (ns)," in message

    def test_a_known_kind_of_another_version_says_which_is_known(self):
        assert "apiVersion: Pod is known as v1, not as 'v2'" in reason(POD.replace("v1", "v2"))

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("just text", "a resource is an object with apiVersion, kind and metadata, not the string 'just text'"),
            ("[1]", "not the value 1"),
            ("{kind: Pod}", "apiVersion: is missing or not a string"),
            ("{apiVersion: v1, kind: 7}", "kind: is missing or not a string"),
            ("{apiVersion: v1, kind: Pod}", "metadata: is missing"),
            ("{apiVersion: v1, kind: Pod, metadata: {}}", "metadata.name: is missing"),
            ("{apiVersion: v1, kind: Pod, metadata: x}", "metadata: must be an object, not the string 'x'"),
            ("{apiVersion: v1, kind: Pod, metadata: {name: 7}}", 'metadata.name: must be a string, not the value 7: put it in quotes, as in "7"'),
            (
                "{apiVersion: v1, kind: Pod, metadata: {name: x, labels: {ok: fine, version: 1.10}}}",
                'metadata.labels.version: must be a string, not the value 1.1: put it in quotes, as in "1.1"',
            ),
            (
                "{apiVersion: v1, kind: Pod, metadata: {name: x, labels: {enabled: yes}}}",
                'metadata.labels.enabled: must be a string, not the value true: put it in quotes, as in "true"',
            ),
            ("{apiVersion: v1, kind: Pod, metadata: {name: x, labels: {1: a}}}", "metadata.labels: every key must be a string"),
            (
                "{apiVersion: v1, kind: Pod, metadata: {name: x, creationTimestamp: soon}}",
                "metadata.creationTimestamp: Invalid RFC3339 encoded datetime",
            ),
            ("{apiVersion: v1, kind: Namespace, metadata: {name: x}, spec: [1]}", "spec: must be an object, not a list"),
        ],
    )  # fmt: skip
    def test_what_has_the_wrong_shape_says_what_would_be_right(self, text, expected):
        assert expected in reason(text)

    @pytest.mark.parametrize(
        ("before", "after", "expected"),
        [
            ('port: "80", protocol: TCP}, {', "port: 80, protocol: TCP}, {", 'ports[0].port: must be a string, not the value 80: put it in quotes, as in "80"'),
            ("endPort: 65535", 'endPort: "65535"', "endPort: must be a whole number, not the string '65535': leave the quotes out, as in 65535"),
            ("protocol: UDP", "protocol: udp", "protocol: 'udp' is not one of TCP, UDP, SCTP, VRRP, IGMP, GRE, IPIP, IPV6, ESP, AH, ANY (did you mean UDP?)"),
            ("toEntities: [world]", "toEntities: [word]", "toEntities[0]: 'word' is not one of all, world, cluster,"),
            ("toEntities: [world]", "toEntities: world", "toEntities: must be a list, not the string 'world'"),
            ("fromEndpoints: []", "fromEndpoints:", "ingress[1].fromEndpoints: has no value: give it one, or leave the field out"),
            ("operator: In,", "operator: in,", "operator: 'in' is not one of In, NotIn, Exists, DoesNotExist (did you mean In?)"),
        ],
    )  # fmt: skip
    def test_wrong_values_in_a_policy_say_what_would_be_right(self, before, after, expected):
        assert before in FULL_POLICY

        assert expected in reason(FULL_POLICY.replace(before, after))

    def test_one_fault_refuses_the_whole_file(self):
        assert "document 2" in reason(documents(POD, POD.replace("name: web", "name: Web")))

    def test_code_that_builds_nonsense_is_told_too(self):
        with pytest.raises(InvalidResource, match=r"Pod default/web: metadata\.labels\.a: .* too long"):
            validate(Pod(metadata=ObjectMeta(name="web", namespace="default", labels={"a": "x" * 64})))

    def test_a_stored_text_that_is_broken_is_told_apart_from_a_users(self):
        with pytest.raises(InvalidResource, match="a stored Pod"):
            decode_stored(kind_of(Pod), b'{"apiVersion": "v1"')


class TestMalformedText:
    @pytest.mark.parametrize(
        ("text", "place", "words"),
        [
            ("a: b: c", "line 1, column 5", "mapping values are not allowed"),
            ("a: [1, 2", "line 2, column 1", "did not find expected"),
            ("a:\n\t- b", "line 2, column 1", "cannot start any token"),
            ("a: *nothing", "line 1, column 4", "undefined alias"),
            ("a: 1\nb: 2\na: 3", "line 3, column 1", "the key 'a' stands twice"),
            ("a: &x [*x]", "line 1, column 4", "a value that holds itself"),
            ("a: \x07", "line 1, column 4", "control characters are not allowed"),
            ("a: !!python/object/apply:os.system [ls]", "line 1, column 4", "could not determine a constructor"),
            ("? [a, b]\n: c", "line 1, column 3", "unhashable"),
        ],
    )
    def test_malformed_yaml_is_located(self, text, place, words):
        message = reason(text)

        assert message.startswith(f"file.yaml: {place}")
        assert words in message

    def test_a_number_beyond_all_measure_is_refused(self):
        assert "malformed YAML: Exceeds the limit" in reason("a: " + "9" * 5000)

    def test_malformed_json_is_located(self):
        assert reason('{"a": 1,}', "x.json").startswith("x.json: line 1, column 9: malformed JSON: ")
        assert reason('{"a": 1, "a": 2}') == "file.yaml: the key 'a' stands twice in one object"

    @pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "- " * 100_000], ids=["yaml", "json", "block"])
    def test_what_is_nested_without_end_is_refused(self, text):
        assert "nested too deeply" in reason(text)

    def test_aliases_cannot_blow_a_few_lines_up_to_billions_of_values(self):
        lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
        lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]

        assert "too many values" in reason("\n".join(lines))

    @settings(deadline=None)
    @given(st.text(max_size=60))
    def test_no_text_at_all_does_more_than_be_refused(self, text):
        with suppress(InvalidResource):
            decode(text)


class TestKinds:
    def test_users_words_find_their_kind(self):
        found = [
            kind_for_word(word).name
            for word in ("cnp", "ciliumnetworkpolicies", "CiliumNetworkPolicy", "po", "ccnp", "NETPOL")
        ]

        assert found == ["CiliumNetworkPolicy"] * 3 + ["Pod", "CiliumClusterwideNetworkPolicy", "NetworkPolicy"]

    def test_an_unknown_word_lists_the_known_ones(self):
        with pytest.raises(
            InvalidResource, match=r"unknown kind 'pood' \(did you mean pod\?\); known kinds are Pod \(po\),"
        ):
            kind_for_word("pood")

    def test_each_kind_is_known_by_its_struct_and_words_mean_one_kind(self):
        words = [word for kind in KINDS for word in (kind.name.lower(), kind.plural, *kind.short_names)]

        assert len(words) == len(set(words))
        for kind in KINDS:
            assert kind_of(kind.resource) is kind
            defaults = {
                field.name: field.default_factory()
                for field in msgspec.structs.fields(kind.resource)
                if field.name in ("api_version", "kind")
            }
            assert defaults == {"api_version": kind.api_version, "kind": kind.name}

    def test_types_narrow_the_kind(self):
        assert NetworkPolicy(metadata=ObjectMeta(name="x")).kind == "NetworkPolicy"
        assert CiliumNetworkPolicy(metadata=ObjectMeta(name="x")).api_version == "cilium.io/v2"


def _without_defaults(value):
    """What says the same as nothing is not written out."""
    if isinstance(value, dict):
        said = {key: _without_defaults(inner) for key, inner in value.items()}
        return {key: inner for key, inner in said.items() if inner != "" or key == "reserved:host"}
    return [_without_defaults(inner) for inner in value] if isinstance(value, list) else value
