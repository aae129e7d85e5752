"""How an error travels: {"code": class, "message": text, "details": {…}} and back, so that callers see the same class.

Shared by server and client, so it imports little.
"""

from __future__ import annotations

from pycilium import errors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_STATUS = {
    "InvalidResource": 400,
    "NotSupported": 400,
    "ConfigError": 400,
    "NotFound": 404,
    "AlreadyExists": 409,
    "Conflict": 409,
    "EndpointConflict": 409,
    "PermissionRequired": 403,
    "AgentUnavailable": 503,
    "StoreUnavailable": 503,
    "StoreForbidden": 503,
    "KindNotServed": 503,
    "IpamExhausted": 507,
}


def http_status(error: errors.CiliumError) -> int:
    """The nearest HTTP status; the class says more."""
    return _STATUS.get(_known_class(error).__name__, 500)


def to_message(error: BaseException) -> dict[str, Any]:
    """What the client is told."""
    if not isinstance(error, errors.CiliumError):
        return {"code": "CiliumError", "message": f"internal error: {type(error).__name__}: {error}"}
    details = {name: value for name, value in vars(error).items() if isinstance(value, (str, int))}
    message: dict[str, Any] = {"code": _known_class(error).__name__, "message": str(error)}
    return {**message, "details": details} if details else message


def from_message(status: int, message: object) -> errors.CiliumError:
    """The error that the server raised."""
    fields = message if isinstance(message, dict) else {}
    text = fields.get("message") or f"the agent answered with HTTP status {status}"
    kind = getattr(errors, str(fields.get("code")), None)
    if not (isinstance(kind, type) and issubclass(kind, errors.CiliumError)):
        kind = errors.CiliumError
    error: errors.CiliumError = kind.__new__(kind)  # its own __init__ would make the text anew
    Exception.__init__(error, text)
    vars(error).update(fields.get("details") or {})
    return error


def _known_class(error: errors.CiliumError) -> type:
    """The nearest class that the other side knows too."""
    ancestors: tuple[type, ...] = type(error).__mro__
    known = (kind for kind in ancestors if getattr(errors, kind.__name__, None) is kind)
    return next(known, errors.CiliumError)
