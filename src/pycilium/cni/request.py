"""What a runtime hands to the plugin (environment and configuration), checked. Pure but for looking at CNI_NETNS.

Everything wrong is a CniError with the specification's code and a message that names the variable or the field.
No imports: they would be paid for with every pod that starts.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

SUPPORTED_VERSIONS = ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
NEWEST_VERSION = SUPPORTED_VERSIONS[-1]
DEFAULT_SOCKET = "/var/run/cilium/cilium.sock"
VALID_ATTACHMENTS = "cni.dev/valid-attachments"

# Codes of the specification; from 100 on they are the plugin's own.
INCOMPATIBLE_VERSION = 1
UNSUPPORTED_FIELD = 2
UNKNOWN_CONTAINER = 3
INVALID_ENVIRONMENT = 4
IO_FAILURE = 5
UNDECODABLE = 6
INVALID_CONFIG = 7
TRY_AGAIN_LATER = 11
NOT_AVAILABLE = 50
AGENT_FAILED = 100
NO_ADDRESS_LEFT = 101
ENDPOINT_CONFLICT = 102
DATAPATH_FAILED = 103

_FIRST_VERSION = {"CHECK": "0.4.0", "GC": "1.1.0", "STATUS": "1.1.0"}
_NEEDS_CONTAINER = ("ADD", "CHECK", "DEL")
_NEEDS_NETNS = ("ADD", "CHECK")
_COMMANDS = ("ADD", "CHECK", "DEL", "GC", "STATUS", "VERSION")

# Fields of the specification and of libcni, then our own. Others are refused, as the specification allows.
_KNOWN_FIELDS = frozenset(
    (
        *("cniVersion", "cniVersions", "name", "type", "args", "capabilities", "dns", "prevResult"),
        *("disableCheck", "disableGC", "loadOnlyInlinedPlugins", "runtimeConfig"),
        *("socket", "log-file"),
    )
)
PORT_MAPPINGS = "portMappings"
"""The one capability that is offered."""
# Known, but only where they ask for nothing: the value says what we do not do.
_MUST_BE_EMPTY = {
    "ipam": "addresses come from the node's pod CIDRs",
    "ipMasq": "masquerading is not the plugin's business",
    "chaining-mode": "chaining is not built yet",
}

_DIGITS_AND_LETTERS = frozenset("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_NAME_CHARACTERS = _DIGITS_AND_LETTERS | frozenset("_.-")


class CniError(Exception):
    """The error answer of the plugin."""

    def __init__(self, code: int, message: str, details: str = "") -> None:
        super().__init__(message)
        self.code, self.message, self.details = code, message, details


def checked_command(environment: Mapping[str, str]) -> str:
    command = environment.get("CNI_COMMAND", "")
    if not command:
        raise CniError(INVALID_ENVIRONMENT, "CNI_COMMAND is missing", "this program is started by container runtimes")
    if command not in _COMMANDS:
        raise CniError(INVALID_ENVIRONMENT, f"CNI_COMMAND: unknown command {command}", f"known: {', '.join(_COMMANDS)}")
    return command


def checked_config(config: Any, command: str) -> dict[str, Any]:
    """The network configuration, or CniError. DEL passes over fields that ADD refuses: it must always clean up."""
    if not isinstance(config, dict):
        raise CniError(INVALID_CONFIG, "the network configuration must be a JSON object", f"it is {_type_name(config)}")
    _check_version(config, command)
    for field in ("name", "type"):
        _check_text(config, field, required=True)
    if not is_name(config["name"]):
        raise CniError(
            INVALID_CONFIG,
            f"name: {config['name']!r} is no network name",
            "letters, digits, '_', '.', '-'; no leading sign",
        )
    for field in ("socket", "log-file"):
        _check_text(config, field, required=False)
    if command == "ADD":
        _check_fields(config)
    return config


def checked_environment(environment: Mapping[str, str], command: str) -> dict[str, Any]:
    """The part of the agent's request that the environment gives: container_id, ifname, netns, args."""
    if command not in _NEEDS_CONTAINER:
        return {}
    container_id = _required(environment, "CNI_CONTAINERID")
    if not is_name(container_id):
        raise CniError(
            INVALID_ENVIRONMENT,
            f"CNI_CONTAINERID: {container_id!r} is no container id",
            "letters, digits, '_', '.', '-'",
        )
    ifname = _required(environment, "CNI_IFNAME")
    if reason := _wrong_ifname(ifname):
        raise CniError(INVALID_ENVIRONMENT, f"CNI_IFNAME: {ifname!r} is no interface name", reason)
    netns = environment.get("CNI_NETNS", "")
    if command in _NEEDS_NETNS and not netns:
        raise CniError(INVALID_ENVIRONMENT, "CNI_NETNS is missing", f"{command} needs a network namespace")
    args = _parsed_args(environment.get("CNI_ARGS", ""))
    return {"container_id": container_id, "ifname": ifname, "netns": netns, "args": args}


def valid_attachments(config: dict[str, Any]) -> list[dict[str, str]]:
    """What GC must leave alone. Missing is an error: taken as "none", it would cost every pod its network."""
    listed = config.get(VALID_ATTACHMENTS)
    if not isinstance(listed, list):
        raise CniError(INVALID_CONFIG, f"{VALID_ATTACHMENTS} must be a list", f"it is {_type_name(listed)}")
    return [_attachment(entry, f"{VALID_ATTACHMENTS}[{index}]") for index, entry in enumerate(listed)]


def check_chain(config: dict[str, Any]) -> None:
    """Refuse an ADD behind another plugin that has made an interface already."""
    previous = config.get("prevResult")
    if previous is None:
        return
    if not isinstance(previous, dict) or previous.get("interfaces") or previous.get("ips"):
        raise CniError(
            INVALID_CONFIG,
            "prevResult: chaining behind another plugin is not supported",
            "cilium-cni makes the pod's interface itself: put it first in the list of plugins",
        )


def is_name(text: str) -> bool:
    """Whether `text` may name a network or a container."""
    return bool(text) and text[0] in _DIGITS_AND_LETTERS and _NAME_CHARACTERS.issuperset(text)


def _attachment(entry: object, path: str) -> dict[str, str]:
    fields = entry if isinstance(entry, dict) else {}
    container_id, ifname = fields.get("containerID"), fields.get("ifname")
    if not (isinstance(container_id, str) and container_id and isinstance(ifname, str) and ifname):
        raise CniError(INVALID_CONFIG, f"{path} must be an object with containerID and ifname")
    return {"container_id": container_id, "ifname": ifname}


def _check_version(config: dict[str, Any], command: str) -> None:
    version = config.get("cniVersion", "0.1.0")  # as the specification reads a missing one
    if version not in SUPPORTED_VERSIONS:
        shown = repr(version) if "cniVersion" in config else "missing, which means 0.1.0"
        raise CniError(
            INCOMPATIBLE_VERSION, f"cniVersion {shown} is not supported", f"supported: {', '.join(SUPPORTED_VERSIONS)}"
        )
    first = _FIRST_VERSION.get(command, SUPPORTED_VERSIONS[0])
    if SUPPORTED_VERSIONS.index(version) < SUPPORTED_VERSIONS.index(first):
        raise CniError(INCOMPATIBLE_VERSION, f"{command} does not exist in CNI {version}", f"it came with CNI {first}")


def _check_text(config: dict[str, Any], field: str, *, required: bool) -> None:
    if field not in config and not required:
        return
    value = config.get(field)
    if not isinstance(value, str) or not value:
        problem = "is missing" if field not in config else f"must be a text, it is {_type_name(value)}"
        raise CniError(INVALID_CONFIG, f"{field} {problem}", "in the network configuration")


def _check_fields(config: dict[str, Any]) -> None:
    for field, value in config.items():
        if field in _KNOWN_FIELDS or field.startswith("cni.dev/"):
            continue
        if field in _MUST_BE_EMPTY:
            if value in (None, False, "", {}, []):
                continue
            raise CniError(UNSUPPORTED_FIELD, f"{field}: {value!r} is not supported", _MUST_BE_EMPTY[field])
        raise CniError(UNSUPPORTED_FIELD, f"{field}: {value!r} is not supported", "no such field is known")
    for field in ("args", "dns", "runtimeConfig"):
        if not isinstance(config.get(field, {}), dict):
            raise CniError(INVALID_CONFIG, f"{field} must be an object, it is {_type_name(config[field])}")
    for capability, value in config.get("runtimeConfig", {}).items():
        if capability != PORT_MAPPINGS and value not in (None, False, "", {}, []):
            raise CniError(
                UNSUPPORTED_FIELD,
                f"runtimeConfig.{capability}: {value!r} is not supported",
                f"the one capability that is offered is {PORT_MAPPINGS}",
            )


def _required(environment: Mapping[str, str], name: str) -> str:
    value = environment.get(name, "")
    if not value:
        raise CniError(INVALID_ENVIRONMENT, f"{name} is missing")
    return value


def _wrong_ifname(ifname: str) -> str:
    if len(ifname.encode("utf-8", "surrogateescape")) > 15:
        return "an interface name has 15 bytes at most"
    if ifname in (".", ".."):
        return "it may not be . or .."
    if any(character in "/:" or character.isspace() for character in ifname):
        return "it may hold no '/', ':' or space"
    return ""


def _parsed_args(text: str) -> dict[str, str]:
    args = {}
    for pair in text.split(";"):
        if not pair:
            continue
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise CniError(
                INVALID_ENVIRONMENT, f"CNI_ARGS: {pair!r} is no KEY=VALUE pair", "pairs are separated by ';'"
            )
        args[key] = value
    return args


def _type_name(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "an empty text", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
