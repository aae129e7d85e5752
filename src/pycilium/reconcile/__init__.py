"""Desired against realized: the pure difference (DeltaTracker), the reconciler of one target, and their stages.

The law: what is realized depends only on what is desired, not on the path there.
"""

from pycilium.reconcile.delta_tracker import UNCERTAIN, DeltaTracker, Uncertain
from pycilium.reconcile.number_pool import NumberPool, NumbersExhaustedError
from pycilium.reconcile.reconciler import Backoff, Operations, Outcome, Reconciler, Status
from pycilium.reconcile.stages import RoundResult, Stages

__all__ = [
    "UNCERTAIN",
    "Backoff",
    "DeltaTracker",
    "NumberPool",
    "NumbersExhaustedError",
    "Operations",
    "Outcome",
    "Reconciler",
    "RoundResult",
    "Stages",
    "Status",
    "Uncertain",
]
