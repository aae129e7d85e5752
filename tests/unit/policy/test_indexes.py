"""The indexes find what a search through everything finds."""

from ipaddress import ip_network

from hypothesis import given
from hypothesis import strategies as st

from pycilium.model.labels import Label, Labels
from pycilium.model.prefixes import PrefixMap
from pycilium.model.selector import LabelSelector, Operator, Requirement
from pycilium.policy._label_index import LabelsIndex, SelectorIndex

SOURCES = st.sampled_from(("k8s", "reserved"))
KEYS = st.sampled_from(("app", "role"))
VALUES = st.sampled_from(("a", "b", "c"))

LABELS = st.lists(st.builds(Label, SOURCES, KEYS, VALUES), max_size=3).map(Labels)
REQUIREMENTS = st.one_of(
    st.builds(
        Requirement,
        st.sampled_from(("any", "k8s", "reserved")),
        KEYS,
        st.sampled_from((Operator.IN, Operator.NOT_IN)),
        st.lists(VALUES, min_size=1, max_size=2, unique=True).map(lambda values: tuple(sorted(values))),
    ),
    st.builds(
        Requirement, st.sampled_from(("any", "k8s")), KEYS, st.sampled_from((Operator.EXISTS, Operator.DOES_NOT_EXIST))
    ),
)
SELECTORS = st.lists(REQUIREMENTS, max_size=3).map(lambda found: LabelSelector(tuple(found)))
NETWORKS = st.one_of(
    st.builds(
        lambda bits, length: ip_network((bits << 24, length), strict=False), st.integers(0, 255), st.integers(0, 12)
    ),
    st.builds(
        lambda bits, length: ip_network((bits << 120, length), strict=False), st.integers(0, 255), st.integers(0, 12)
    ),
)


@given(st.lists(SELECTORS, max_size=12), st.sets(st.integers(0, 11)), LABELS)
def test_selectors_that_match_labels(selectors, removed, labels):
    index = SelectorIndex()
    for number, selector in enumerate(selectors):
        index.add(selector, number)
        index.add(selector, number)
    for number in removed:
        if number < len(selectors):
            index.remove(selectors[number], number)

    found = index.matching(labels)

    assert found == {number for number, each in enumerate(selectors) if number not in removed and each.matches(labels)}


@given(
    st.lists(LABELS, max_size=12), st.sets(st.integers(0, 11)), st.dictionaries(st.integers(0, 11), LABELS), SELECTORS
)
def test_labels_that_match_a_selector(several, removed, changed, selector):
    index = LabelsIndex()
    for number, labels in enumerate(several):
        index.add(number, labels)
    for number in removed:
        index.remove(number)
    for number, labels in changed.items():
        index.remove(number)
        index.add(number, labels)
    left = {number: labels for number, labels in enumerate(several) if number not in removed} | changed

    found = index.matching(selector)

    assert sorted(found) == sorted(number for number, labels in left.items() if selector.matches(labels))
    assert len(index) == len(left)


def test_a_requirement_that_names_a_source_looks_at_no_other():
    index = LabelsIndex()
    index.add(1, Labels.parse("k8s:app=a"))
    index.add(2, Labels.parse("other:app=a"))
    index.add(3, Labels.parse("k8s:app=b,other:app=a"))

    def found(source, operator, *values):
        return set(index.matching(LabelSelector((Requirement(source, "app", operator, values),))))

    assert found("k8s", Operator.IN, "a") == {1}
    assert found("any", Operator.IN, "a") == {1, 2, 3}
    assert found("k8s", Operator.NOT_IN, "a") == {2, 3}
    assert found("any", Operator.NOT_IN, "a") == set()
    assert found("k8s", Operator.DOES_NOT_EXIST) == {2}


@given(st.lists(NETWORKS, max_size=20, unique=True), st.sets(st.integers(0, 19)), NETWORKS)
def test_networks_around_and_within_another(networks, removed, asked):
    prefixes = PrefixMap()
    for number, network in enumerate(networks):
        prefixes[network] = number
    for number in removed:
        if number < len(networks):
            del prefixes[networks[number]]
    left = {network for number, network in enumerate(networks) if number not in removed}
    family = [network for network in left if network.version == asked.version]

    covering = [network for network, _ in prefixes.covering(asked)]
    within = {network for network, _ in prefixes.within(asked)}

    assert covering == sorted((each for each in family if asked.subnet_of(each)), key=lambda each: -each.prefixlen)
    assert within == {each for each in family if each.subnet_of(asked)}
    assert set(prefixes) == left
    assert len(prefixes) == len(left)
