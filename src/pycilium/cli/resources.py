"""`cilium apply|get|delete`: resources in the store.

Files are read whole, judged whole, and applied whole or not at all.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from pycilium.cli import resource_table
from pycilium.cli.render import output_option, print_json, print_table, print_yaml
from pycilium.cli.target import Target, lab_option, pass_target
from pycilium.errors import ConfigError, InvalidResource, NotFound

if TYPE_CHECKING:
    from pycilium.model.resources import Kind, Resource, ResourceKey
    from pycilium.policy import PolicyResource
    from pycilium.store import BlockingStore

_SUFFIXES = (".yaml", ".yml", ".json")

_files_option = click.option(
    "-f", "--filename", "files", multiple=True, metavar="FILE|DIR|-", help="A file, a folder of files, or - for input."
)
_namespace_option = click.option("-n", "--namespace", default="default", show_default=True, help="The namespace.")


@click.command()
@_files_option
@_namespace_option
@lab_option
@pass_target
def apply(target: Target, files: tuple[str, ...], namespace: str) -> None:
    """Create or change resources. One fault in any file, and nothing is applied."""
    if not files:
        raise click.UsageError("nothing to apply: give -f FILE, -f DIR or -f -")
    decoded = _decoded(files, namespace)
    for source, resource in decoded:
        _check_built(source, resource)
    resources = [resource for _, resource in decoded]
    if not resources:
        sources = ", ".join("standard input" if name == "-" else name for name in files)
        raise ConfigError(f"{sources}: nothing to apply: there is no resource in it")
    _check_unique(resources)
    with _store(target) as store:
        for applied in store.apply(resources):
            click.echo(f"{_title(applied.object)} {applied.outcome}")


@click.command()
@click.argument("kind")
@click.argument("name", required=False)
@_namespace_option
@click.option("-A", "--all-namespaces", "everywhere", is_flag=True, help="In all namespaces.")
@output_option("yaml", "json", "wide", "name")
@lab_option
@pass_target
def get(target: Target, kind: str, name: str | None, namespace: str, everywhere: bool, output: str | None) -> None:
    """Show resources of a kind, or one by its name."""
    from pycilium.model.resources import kind_for_word, to_plain

    found = kind_for_word(kind)
    if name and everywhere:
        raise click.UsageError("a name and -A exclude each other: say in which namespace with -n")
    with _store(target) as store:
        if name:
            resources = [store.get(found.resource, name, namespace if found.namespaced else "")]
        else:
            wanted = None if everywhere or not found.namespaced else namespace
            listed = store.list(found.resource, wanted)
            resources = list(listed.items)
            for unreadable in listed.unreadable:
                click.echo(f"Warning: {unreadable}", err=True)
    if output in ("json", "yaml"):
        plain: Any = [to_plain(resource) for resource in resources]
        plain = plain[0] if name else {"apiVersion": "v1", "kind": "List", "items": plain}
        (print_json if output == "json" else print_yaml)(plain)
    elif output == "name":
        for resource in resources:
            click.echo(_title(resource))
    elif resources:
        print_table(*resource_table.table(resources, namespaces=everywhere and found.namespaced, wide=output == "wide"))
    else:
        place = f" in namespace {namespace}" if found.namespaced and not everywhere else ""
        click.echo(f"No {found.plural} found{place}.", err=True)


@click.command()
@_files_option
@click.argument("words", nargs=-1, metavar="[KIND NAME...]")
@_namespace_option
@click.option("--ignore-not-found", is_flag=True, help="What is not there counts as deleted.")
@lab_option
@pass_target
def delete(
    target: Target, files: tuple[str, ...], words: tuple[str, ...], namespace: str, ignore_not_found: bool
) -> None:
    """Delete the resources of a file, or some by kind and name."""
    if bool(files) == bool(words) or len(words) == 1:
        raise click.UsageError("say what to delete: -f FILE, or KIND NAME")
    keys = [resource.key for _, resource in _decoded(files, namespace)] if files else _keys(words, namespace)
    for key in keys:
        _refuse_lab_pod(target, key)
    with _store(target) as store:
        deleted = set(store.delete_all(keys))
    for key in keys:
        if key in deleted:
            click.echo(f"{_name(key)} deleted")
    missing = [str(key) for key in keys if key not in deleted]
    if missing and not ignore_not_found:
        raise NotFound(f"not found: {', '.join(missing)}")


def _store(target: Target) -> BlockingStore:
    if (lab := target.lab) is not None:
        from pycilium.lab import labs

        return labs.open_store(lab)
    from pycilium.store import open_blocking

    return open_blocking(target.store_url())


def _decoded(files: Iterable[str], namespace: str) -> list[tuple[str, Resource]]:
    """Every resource of the files, with the name of its file."""
    from pycilium.model.resources import decode_documents

    return [
        (source, resource)
        for source, text in (pair for name in files for pair in _texts(name))
        for resource in decode_documents(text, source, namespace=namespace)
    ]


def _texts(name: str) -> list[tuple[str, str]]:
    """Source and text of every file that `name` means."""
    if name == "-":
        return [("standard input", sys.stdin.read())]
    path = Path(name)
    paths = [path]
    if path.is_dir():
        paths = sorted(inner for inner in path.iterdir() if inner.suffix in _SUFFIXES)
        if not paths:
            raise ConfigError(f"{name}: no {', '.join(_SUFFIXES)} files in this folder")
    try:
        return [(str(one), one.read_text(encoding="utf-8")) for one in paths]
    except OSError as error:
        raise ConfigError(f"{error.filename}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{name}: is not UTF-8 text: {error}") from error


def _check_built(source: str, resource: Resource) -> None:
    """NotSupported for what a policy asks for and this version does not build."""
    if not resource.kind.endswith("NetworkPolicy"):
        return
    from pycilium.policy import parse_policy

    try:
        parse_policy(cast("PolicyResource", resource))
    except InvalidResource as error:
        raise type(error)(error.reason, path=error.path, source=f"{source}: {resource.key}") from error


def _check_unique(resources: Iterable[Resource]) -> None:
    seen: set[ResourceKey] = set()
    for resource in resources:
        if resource.key in seen:
            raise ConfigError(f"{resource.key} is there twice: which one is meant?")
        seen.add(resource.key)


def _keys(words: tuple[str, ...], namespace: str) -> list[ResourceKey]:
    from pycilium.model.resources import ResourceKey, kind_for_word

    kind: Kind[Any] = kind_for_word(words[0])
    return [ResourceKey(kind.name, namespace if kind.namespaced else "", name) for name in words[1:]]


def _refuse_lab_pod(target: Target, key: ResourceKey) -> None:
    """A pod of a lab is more than its resource: deleting that alone would leave the rest behind."""
    layout = target.lab
    if layout is not None and key.kind == "Pod" and layout.pod_record(key.namespace, key.name).exists():
        raise ConfigError(f"pod {key.namespace}/{key.name} runs: use `cilium lab pod rm -n {key.namespace} {key.name}`")


def _title(resource: Resource) -> str:
    return _name(resource.key)


def _name(key: ResourceKey) -> str:
    """`kind/name`, as kubectl writes it."""
    return f"{key.kind.lower()}/{key.name}"
