"""The flags of the hubble command, as its users know them.

argparse and not click: the order of the filter flags means something (`--not` turns the next one round), and click
hands options over by name, not in order. Wrong use ends with one line that says what would be right, and exit code 2.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from pycilium.cli.hubble_filters import FLAGS, FlowFlags
from pycilium.cli.hubble_time import EXPECTED, FORMATS, parse_duration_ns

OUTPUTS = ("compact", "dict", "json", "jsonpb", "table")
DEFAULT_NUMBER = 20
_SWITCH_SUFFIX = "-is"


class WrongUseError(Exception):
    """The command line cannot be followed; the message says why."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        shown = re.sub(rf"(--[a-z-]+){_SWITCH_SUFFIX}\b", r"\1", message)
        raise WrongUseError(f"{shown} (see {self.prog} --help)")


class _FilterAction(argparse.Action):
    """Puts a filter flag into the command line's FlowFlags, in order."""

    def __init__(self, option_strings: Sequence[str], dest: str, fixed: str | None = None, **more: Any) -> None:
        super().__init__(option_strings, "flow_flags", nargs=0 if fixed is not None else None, **more)
        self._name = dest.replace("_", "-").removesuffix(_SWITCH_SUFFIX)
        self._fixed = fixed

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        flags: FlowFlags = namespace.flow_flags
        try:
            if self._name == "not":
                flags.negate()
            else:
                flags.set(self._name, values if self._fixed is None else self._fixed)
        except ValueError as error:
            parser.error(f"{(option or '').removesuffix(_SWITCH_SUFFIX)}: {error}")


def root_parser() -> argparse.ArgumentParser:
    """Flags before the command's name, the name, and the rest."""
    parser = _Parser(
        prog="hubble",
        allow_abbrev=False,
        description="Observe the flows of a node: who talked to whom, what became of it, and which rule decided.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=(
            "commands:\n"
            "  observe [flows]         flows, the last 20 of them unless told otherwise\n"
            "  observe agent-events    what the agent did\n"
            "  observe debug-events    debug events of the datapath\n"
            "  status                  whether the server works, and how much it has seen\n"
            "  list nodes|namespaces   nodes that serve flows; namespaces with recent flows\n"
            "  watch peers             nodes that come and go\n"
            "  version                 this command's version\n"
        ),
    )
    _add_server_flags(parser)
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    parser.add_argument("command", nargs="?", default="", metavar="COMMAND")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...")
    return parser


def flows_parser() -> argparse.ArgumentParser:
    parser = _parser(
        "hubble observe", "Flows of a node. Flags of one kind widen what is shown, different ones narrow it."
    )
    _add_selectors(parser)
    group = parser.add_argument_group("filters", "only flows with …")
    group.add_argument("--not", action=_FilterAction, fixed="true", help="turn the next filter round")
    for flag in FLAGS:
        names = [f"--{flag.name}", *([f"-{flag.short}"] if flag.short else [])]
        group.add_argument(
            *names, action=_FilterAction, dest=flag.name, fixed=flag.fixed, help=flag.help, metavar=flag.metavar
        )
        if flag.fixed is not None:
            _hidden_value(group, flag.name)
    for prefix, where in (("", "at either end"), ("from-", "at the source"), ("to-", "at the destination")):
        names = [f"--{prefix}namespace", *(["-n"] if not prefix else [])]
        group.add_argument(
            *names, action=_FilterAction, dest=f"{prefix}namespace", metavar="NAMESPACE", help=f"a namespace {where}"
        )
        names = [f"--{prefix}all-namespaces", *(["-A"] if not prefix else [])]
        group.add_argument(
            *names,
            action=_FilterAction,
            dest=f"{prefix}all-namespaces",
            fixed="true",
            help=f"a pod, of any namespace, {where}",
        )
    raw = parser.add_argument_group("raw filters")
    raw.add_argument("--allowlist", action="append", default=[], metavar="JSON", help="a flow filter as JSON")
    raw.add_argument("--denylist", action="append", default=[], metavar="JSON", help="the same, to leave flows out")
    raw.add_argument("--print-raw-filters", action="store_true", help="print the filters as YAML and exit")
    form = _add_formats(parser)
    _switch(form, "--print-policy-names", help="name the policies that allowed or denied")
    _switch(form, "--numeric", help="addresses instead of names")
    _switch(form, "--ip-translation", default=True, help="names instead of addresses (on unless =false)")
    form.add_argument("--color", choices=("auto", "always", "never"), default="auto", help="in compact and dict output")
    form.add_argument("--field-mask", default="", metavar="FIELDS", help="with -o json: only these fields, by commas")
    _switch(form, "--use-default-field-masks", default=True, help="ask only for what is printed (on unless =false)")
    parser.set_defaults(flow_flags=FlowFlags())
    return parser


def events_parser(name: str) -> argparse.ArgumentParser:
    parser = _parser(f"hubble observe {name}", f"{name.replace('-', ' ').capitalize()} of a node.")
    _add_selectors(parser)
    _add_formats(parser)
    return parser


def status_parser() -> argparse.ArgumentParser:
    parser = _parser("hubble status", "Whether the server works, and how much it has seen.")
    parser.add_argument("-o", "--output", choices=OUTPUTS, default="compact")
    return parser


def list_parser(what: str) -> argparse.ArgumentParser:
    parser = _parser(f"hubble list {what}", f"The {what} that the server knows.")
    parser.add_argument("-o", "--output", choices=("table", "wide", "json"), default="table")
    return parser


def plain_parser(name: str, description: str) -> argparse.ArgumentParser:
    return _parser(f"hubble {name}", description)


def parse(parser: argparse.ArgumentParser, arguments: Sequence[str], root: argparse.Namespace) -> argparse.Namespace:
    """The arguments of a command; server flags given before the command's name hold too. Raises WrongUseError."""
    switches = {
        option.removesuffix(_SWITCH_SUFFIX)
        for option in parser._option_string_actions
        if option.endswith(_SWITCH_SUFFIX)
    }
    rewritten = []
    for argument in arguments:
        name, separator, value = argument.partition("=")
        if separator and name in switches:
            rewritten += [name + _SWITCH_SUFFIX, value]
        else:
            rewritten.append(argument)
    given = parser.parse_args(rewritten, argparse.Namespace())
    for name in _SERVER_FLAGS:
        if not hasattr(given, name):
            setattr(given, name, getattr(root, name, None))
    return given


_SERVER_FLAGS = ("server", "lab", "node", "timeout", "request_timeout", "debug")


def _parser(program: str, description: str) -> argparse.ArgumentParser:
    parser = _Parser(prog=program, allow_abbrev=False, description=description)
    _add_server_flags(parser)
    return parser


def _add_server_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("server")
    hidden = argparse.SUPPRESS
    group.add_argument(
        "--server",
        default=hidden,
        metavar="ADDRESS",
        help="host:port or unix:///path; or HUBBLE_SERVER; else the lab's or this machine's agent",
    )
    group.add_argument("--lab", default=hidden, metavar="NAME", help="the lab that is meant; or CILIUM_LAB")
    group.add_argument("--node", default=hidden, metavar="NODE", help="of a lab: that node alone; or CILIUM_NODE")
    group.add_argument("--timeout", default=hidden, metavar="DURATION", type=_duration_s, help="to connect (5s)")
    group.add_argument(
        "--request-timeout", default=hidden, metavar="DURATION", type=_duration_s, help="for single answers (12s)"
    )
    group.add_argument("-D", "--debug", action="store_true", default=hidden, help="tell more on stderr")


def _add_selectors(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("which")
    _switch(group, "--all", help="all that is kept")
    group.add_argument("--last", type=_count, default=0, metavar="N", help=f"the last N (default {DEFAULT_NUMBER})")
    group.add_argument("--first", type=_count, default=0, metavar="N", help="the first N that are kept")
    _switch(group, "--follow", "-f", help="and whatever comes")
    group.add_argument("--since", default="", metavar="TIME", help=f"not older: {EXPECTED}")
    group.add_argument("--until", default="", metavar="TIME", help="not newer")


def _add_formats(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    group = parser.add_argument_group("output")
    group.add_argument(
        "-o", "--output", choices=(*OUTPUTS, "tab", "JSON"), default="compact", metavar="|".join(OUTPUTS)
    )
    group.add_argument("--time-format", choices=tuple(FORMATS), default="StampMilli", metavar="|".join(FORMATS))
    _switch(group, "--print-node-name", help="name the node")
    _switch(group, "--silent-errors", "-s", help="no warnings on stderr")
    return group


def _switch(group: argparse._ArgumentGroup, *names: str, default: bool = False, help: str) -> None:  # noqa: A002
    """A flag that takes no value, or one after `=`."""
    group.add_argument(*names, action="store_true", default=default, help=help)
    destination = names[0].removeprefix("--").replace("-", "_")
    group.add_argument(
        names[0] + _SWITCH_SUFFIX, dest=destination, type=_boolean, default=default, help=argparse.SUPPRESS
    )


def _hidden_value(group: argparse._ArgumentGroup, name: str) -> None:
    group.add_argument(f"--{name}{_SWITCH_SUFFIX}", action=_FilterAction, dest=name, help=argparse.SUPPRESS)


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false", "1", "0", "t", "f"):
        raise argparse.ArgumentTypeError(f"{text!r}: true or false is expected")
    return text.lower() in ("true", "1", "t")


def _count(text: str) -> int:
    if not text.isdigit() or int(text) >= 1 << 64:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of flows")
    return int(text)


def _duration_s(text: str) -> float:
    try:
        return parse_duration_ns(text) / 1e9
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def is_terminal() -> bool:
    return sys.stdout.isatty()
