"""Endpoints whose labels or ports change: when each gets the identity that belongs to what it is now.

Other nodes drop what comes with an identity that they have not heard of: a new one is announced first, and taken a
grace time later.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

from pycilium.agent.endpoints.identities import Identities
from pycilium.agent.endpoints.labelling import PodLabelling
from pycilium.agent.endpoints.register import EndpointRegister
from pycilium.agent.endpoints.turns import Turns
from pycilium.endpoint import EndpointEvent, advance
from pycilium.model.endpoint import Endpoint
from pycilium.model.identity import is_node_local
from pycilium.model.labels import Labels
from pycilium.model.policy import Subject


class Relabelling:
    """Of one node's endpoints. `turns` are everybody's who changes them."""

    def __init__(
        self, register: EndpointRegister, identities: Identities, labelling: PodLabelling, grace_s: float
    ) -> None:
        self._register, self._identities, self._labelling, self._grace_s = register, identities, labelling, grace_s
        self.turns = Turns()

    async def refresh(self) -> bool:
        """Give every endpoint the identity that belongs to its labels as they are now.

        Another one if the labels of its pod or namespace changed, or if the cluster has another number for them: the
        lowest of several, one in place of this node's own, a new one if it was lost. Whether nothing is left to do.
        """
        announced = {subject.labels for _, subject in self._to_relabel()}
        if await self._identities.announce(announced):
            # Until they have heard of an identity the other nodes drop what is sent with it.
            await asyncio.sleep(self._grace_s)
        for endpoint, subject in self._to_relabel():
            if subject.labels in announced:  # what changed meanwhile has its own turn
                await self._become(endpoint, subject)
        self._identities.drop_unused()
        return all(
            self._identities.known(endpoint.labels) == endpoint.sec_identity
            for endpoint in self._register.all()
            if endpoint.labels and not endpoint.state.is_leaving
        )

    def _to_relabel(self) -> list[tuple[Endpoint, Subject]]:
        """Endpoints that should have another identity or call their ports otherwise, with what they are to be."""
        found = []
        for endpoint in self._register.all():
            if endpoint.state.is_leaving:
                continue
            pod = self._labelling.pod_of(endpoint)
            subject = self._labelling.subject_of(pod) if pod is not None else endpoint.subject
            known = self._identities.known(subject.labels)
            if subject.labels and (subject, known) != (endpoint.subject, endpoint.sec_identity):
                found.append((endpoint, subject))
        return found

    async def relabel(self, endpoint: Endpoint, labels: Labels) -> None:
        """Give the endpoint these labels, if it is still there."""
        current = self._register.find(endpoint.container_id, endpoint.ifname)
        if current is not None:
            await self._become(current, Subject(labels, current.named_ports))

    async def _become(self, endpoint: Endpoint, subject: Subject) -> None:
        """Give the endpoint these labels and names of ports, if it is still there."""
        labels, ports = subject
        async with self.turns.of(endpoint.attachment):
            number = await self._identities.number_for(labels)
            current = self._register.find(endpoint.container_id, endpoint.ifname)
            if current is None:
                return
            if labels == current.labels and current.sec_identity and is_node_local(number):
                # The store is away: what others know it by is better than what only we do.
                number = current.sec_identity
            if (subject, number) == (current.subject, current.sec_identity):
                return
            changed = advance(replace(current, labels=labels, named_ports=ports), EndpointEvent.LABELS_CHANGED)
            changed = advance(replace(changed, sec_identity=number), EndpointEvent.IDENTITY_KNOWN)
            self._register.realize(changed)
