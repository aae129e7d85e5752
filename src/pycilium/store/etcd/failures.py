"""What etcd's and gRPC's failures mean for a call: whether to try again, and what to tell.

The words are etcd's own (they are stable, its clients compare them too); everything else goes by the status code.
"""

from __future__ import annotations

import enum

import grpc

from pycilium.errors import CiliumError, InvalidResource, StoreUnavailable


class Meaning(enum.Enum):
    """Of a failed call."""

    UNSENT = "the endpoint was not reached: nothing happened there"
    LOST = "the answer was lost or the cluster had no leader: it may or may not have happened"
    STALE_LOGIN = "the token is not known any more: log in again"
    COMPACTED = "the revision asked for is no longer kept"
    REFUSED = "it was refused, and would be everywhere"


class Interrupted(StoreUnavailable):
    """The answer to a write was lost: whether the write was kept must be looked up."""


_STALE_LOGIN = ("invalid auth token", "revision of auth store is old", "user name is empty")
_HINTS = {
    "database space exceeded": "its database is full: compact it, defragment it and disarm the alarm",
    "too many operations in txn request": "it takes too few operations at a time: start it with --max-txn-ops=128",
    "permission denied": "its user may not read and write the keys of the store: grant a role that may",
    "invalid user ID or password": "the user or the password in the store's URL is wrong",
}
_TOO_LARGE = ("request is too large", "message larger than max")
_CODES = {
    grpc.StatusCode.UNAVAILABLE: Meaning.LOST,
    grpc.StatusCode.DEADLINE_EXCEEDED: Meaning.LOST,
    grpc.StatusCode.UNKNOWN: Meaning.LOST,
    grpc.StatusCode.INTERNAL: Meaning.LOST,
    grpc.StatusCode.ABORTED: Meaning.LOST,
    grpc.StatusCode.CANCELLED: Meaning.LOST,
    grpc.StatusCode.UNAUTHENTICATED: Meaning.STALE_LOGIN,
}


def meaning(error: grpc.aio.AioRpcError) -> Meaning:
    """What `error` says about its call."""
    details = error.details() or ""
    if any(words in details for words in _STALE_LOGIN):
        return Meaning.STALE_LOGIN
    if "revision has been compacted" in details:
        return Meaning.COMPACTED
    if "too many requests" in details:
        return Meaning.LOST
    if any(words in details for words in (*_HINTS, *_TOO_LARGE)):
        return Meaning.REFUSED
    if details.startswith("failed to connect to all addresses") or "DNS resolution failed" in details:
        return Meaning.UNSENT
    return _CODES.get(error.code(), Meaning.REFUSED)


def refused(error: grpc.aio.AioRpcError, where: object) -> CiliumError:
    """Our error for a call that is not to be repeated."""
    details = error.details() or str(error.code())
    if any(words in details for words in _TOO_LARGE):
        return InvalidResource("is larger than etcd takes at once: 1.5 MiB, or what --max-request-bytes says")
    return StoreUnavailable(f"{where} refuses: {explained(details)}")


def explained(details: str) -> str:
    """The words of etcd and, where we know one, the remedy."""
    hint = next((hint for words, hint in _HINTS.items() if words in details), "")
    return f"{hint} ({details})" if hint else details


def reason(error: grpc.aio.AioRpcError) -> str:
    """Why an endpoint did not answer, in few words."""
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return "no answer in time"
    details = error.details() or str(error.code())
    _, connecting, rest = details.partition("last error: ")
    text = rest if connecting else details
    for noise in ("Failed to connect to remote host: ", "connect: ", " error: "):
        _, found, after = text.partition(noise)
        text = after if found else text
    return text.strip() or "no answer"
