"""What is asked of the agent to take processes of the node for an endpoint; ours alone, Cilium has no such thing."""

from __future__ import annotations

import msgspec

from pycilium.model.resources.checks import check_dns_label, check_labels


class ProcessRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """POST /endpoint/process."""

    cgroup: str
    """Its path: of the file system, or from the root of cgroups on."""
    name: str
    namespace: str = "default"
    labels: dict[str, str] = {}
    may_be_absent: bool = False
    """The cgroup may be made later, as that of a service that is not running."""

    def check(self) -> None:
        """InvalidResource for a name or label that could not be a pod's."""
        check_dns_label(self.name, "name")
        check_dns_label(self.namespace, "namespace")
        check_labels(self.labels, "labels")
