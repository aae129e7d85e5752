"""Short ways to write policies and to ask the kernel's tables."""

from ipaddress import ip_address

from pycilium.model.identity import Identity
from pycilium.model.labels import pod_labels
from pycilium.model.policy import Direction, Subject
from pycilium.policy import PolicyEngine
from pycilium.policy.lookup import KernelTables
from pycilium.testing.policies import parsed


def cnp(name="p", namespace="default", **spec):
    """A CiliumNetworkPolicy; by default it selects every endpoint of its namespace."""
    return {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumNetworkPolicy",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"endpointSelector": {}, **spec},
    }


def np(name="p", namespace="default", **spec):
    """A NetworkPolicy; by default it selects every pod of its namespace."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"podSelector": {}, **spec},
    }


def policy(document):
    return parsed([document])[0]


def app(name, namespace="default", **labels):
    """The labels of a pod."""
    return pod_labels({"app": name, **labels}, namespace)


def from_apps(*names):
    return {"fromEndpoints": [{"matchLabels": {"app": name}} for name in names]}


class Kernel(KernelTables):
    """Tables fed by an engine, with pods that have numbers from 1000 on."""

    def __init__(self, engine: PolicyEngine | None = None) -> None:
        super().__init__()
        self.engine = engine or PolicyEngine()
        self.numbers = {}

    def update(self, **updates):
        changes = self.engine.update(**updates)
        self.apply(changes)
        return changes

    def policies_are(self, *documents):
        """Make these the only policies."""
        wanted = parsed(documents)
        keys = {each.key for each in wanted}
        gone = [each.key for each in self.engine.policies if each.key not in keys]
        return self.update(policies_upserted=wanted, policies_removed=gone)

    def add_pods(self, *labels):
        """Pods that are subjects and have identities."""
        for each in labels:
            self.numbers[each] = 1000 + len(self.numbers)
        identities = [Identity(self.numbers[each], each) for each in labels]
        return self.update(identities_upserted=identities, subjects_added=map(Subject, labels))

    def policy_of(self, labels):
        """The policy id of a pod that has no ports with names."""
        return self.subjects[Subject(labels)]

    def realized(self):
        """The kernel has caught up; the engine then clears away what it kept."""
        self.engine.realized()
        return self.update()

    def ingress(self, subject, peer, port=80, protocol=6):
        """The verdict on a connection to `subject`; the peer is labels, or an address outside."""
        if isinstance(peer, str):
            identity = self.outside_identity(ip_address(peer))
        else:
            identity = peer if isinstance(peer, int) else self.numbers[peer]
        return self.decide(self.policy_of(subject), Direction.INGRESS, identity, 0, protocol, port)

    def rules(self, verdict):
        return [str(rule) for rule in self.engine.rules_for(verdict.row_id, verdict.selector)]
