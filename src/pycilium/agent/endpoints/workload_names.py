"""What an endpoint is called, so that a resource may have that name. Pure."""

from __future__ import annotations

import re

from pycilium.errors import InvalidResource
from pycilium.model.resources.checks import check_dns_label

_SHORT_ID_CHARACTERS = 5
_MAX_NAME_CHARACTERS = 56
"""So that a short id still fits."""


def name_of_id(container_id: str) -> str:
    """What a container without any name is called. Container ids may hold more than names of objects."""
    return re.sub("[^a-z0-9]", "-", container_id.lower())[:12].strip("-")


def name_of_container(name: str, container_id: str, *, must_tell_apart: bool) -> str:
    """A container's own name in the letters of objects' names; with some of its id if others may be called so."""
    own = re.sub("[^a-z0-9-]", "-", name.lower())[:_MAX_NAME_CHARACTERS].strip("-")
    if not own:
        return name_of_id(container_id)
    short_id = name_of_id(container_id)[:_SHORT_ID_CHARACTERS].strip("-")
    return f"{own}-{short_id}" if must_tell_apart else own


def is_namespace(text: str) -> bool:
    """Whether a namespace may be called this."""
    try:
        check_dns_label(text, "")
    except InvalidResource:
        return False
    return True
