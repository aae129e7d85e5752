"""The archive of `cilium sysdump`: parts, failures, secrets."""

from __future__ import annotations

import io
import zipfile

import pytest

from pycilium.cli.sysdump.archive import Archive
from pycilium.cli.sysdump.secrets import REMOVED, Secrets
from pycilium.errors import NotFound


@pytest.fixture
def made():
    """Makes an archive of what a function adds; its files, by name."""

    def make(fill):
        out = io.BytesIO()
        with Archive(out, "dump", ("About.",), Secrets(["hush-hush"])) as archive:
            fill(archive)
        with zipfile.ZipFile(out) as read:
            return out.getvalue(), {name: read.read(name).decode() for name in read.namelist()}

    return make


def refuse():
    raise NotFound("no pod has hush-hush")


def test_texts_and_objects_are_files_without_secrets(made):
    def fill(archive):
        archive.add("a.txt", "hush-hush")
        archive.add("b.json", {"password": "x"})

    _, files = made(fill)

    assert files["dump/a.txt"] == REMOVED
    assert files["dump/b.json"] == '{\n  "password": "<removed>"\n}'


def test_a_part_that_fails_is_listed_and_ends_nothing(made):
    def fill(archive):
        archive.attempt("a.json", refuse)
        archive.attempt("b.txt", lambda: "b")

    _, files = made(fill)

    assert files["dump/failures.txt"] == f"a.json: no pod has {REMOVED}\n"
    assert "a.json" not in files["dump/README.txt"]
    assert "b.txt" in files["dump/README.txt"]


async def test_a_part_that_is_waited_for_may_fail_too(made):
    async def late():
        refuse()

    out = io.BytesIO()
    with Archive(out, "dump", (), Secrets()) as archive:
        await archive.awaited("a", late())

    assert archive.failures == ["a: no pod has hush-hush"]


def test_a_fault_of_ours_is_no_failure_of_a_part(made):
    with pytest.raises(ZeroDivisionError):
        made(lambda archive: archive.attempt("a", lambda: str(1 // 0)))


def test_a_nodes_archive_is_taken_over_with_its_failures(made):
    def of_node(archive):
        archive.add("agent/status.json", {"state": "Ok"})
        archive.attempt("kernel/nft.txt", refuse)

    packed, _ = made(of_node)

    _, files = made(lambda archive: archive.add_all("nodes/n1", packed))

    assert files["dump/nodes/n1/agent/status.json"] == '{\n  "state": "Ok"\n}'
    assert files["dump/failures.txt"].startswith("nodes/n1/kernel/nft.txt: ")


def test_a_nodes_archive_puts_nothing_outside_of_its_folder(made):
    def of_node(archive):
        archive.add("../../escaped.txt", "x")

    packed, _ = made(of_node)

    _, files = made(lambda archive: archive.add_all("nodes/n1", packed))

    assert "escaped" not in "".join(files)
    assert "is no name of ours" in files["dump/failures.txt"]
