"""Policy: from what users write to what the kernel looks up.

`parse_policy` reads resources, `PolicyEngine` keeps the kernel's entries up to date, `reference` is the slow oracle.
"""

from pycilium.policy._changes import PolicyChanges
from pycilium.policy._numbers import NumbersInUse
from pycilium.policy._programs import NO_POLICY, PolicyEntry
from pycilium.policy._rows import Row, RowKey
from pycilium.policy.engine import PolicyEngine
from pycilium.policy.explain import Decision, Explanation, Nearest, Party, Reason, entity, outside
from pycilium.policy.parse import PolicyResource, parse_policy

__all__ = [
    "NO_POLICY",
    "Decision",
    "Explanation",
    "Nearest",
    "NumbersInUse",
    "Party",
    "PolicyChanges",
    "PolicyEngine",
    "PolicyEntry",
    "PolicyResource",
    "Reason",
    "Row",
    "RowKey",
    "entity",
    "outside",
    "parse_policy",
]
