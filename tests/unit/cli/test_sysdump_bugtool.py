"""`cilium-bugtool` as Cilium's own `sysdump` calls it in an agent's pod."""

from __future__ import annotations

import re
import tarfile

import pytest
from click.testing import CliRunner

from pycilium.cli.sysdump.bugtool import bugtool


@pytest.fixture
def call(tmp_path, monkeypatch):
    """Calls it where no agent runs, with these words."""
    monkeypatch.setenv("CILIUM_SOCK", str(tmp_path / "nobody.sock"))
    return lambda *words: CliRunner().invoke(bugtool, [*words, "--tmp", str(tmp_path)])


def test_its_last_line_names_a_tar_of_one_folder_that_says_what_is_missing(call):
    done = call("--archiveType=gz", "--exclude-object-files")

    path = re.search(r"GZIP at (.*)\n", done.output)[1]
    with tarfile.open(path, "r:gz") as archive:
        names = archive.getnames()
        folder = names[0].partition("/")[0]
        failures = archive.extractfile(f"{folder}/failures.txt").read().decode()
        assert {each.mode for each in archive} == {0o600}
    assert {each.partition("/")[0] for each in names} == {folder}
    assert {f"{folder}/README.txt", f"{folder}/kernel/uname.txt"} < set(names)
    assert "nobody.sock" in failures


def test_without_a_format_it_is_a_plain_tar(call):
    path = re.search(r"ARCHIVE at (.*)\n", call("--archive-prefix", "mine").output)[1]

    assert tarfile.is_tarfile(path)
    assert "/mine-" in path
    assert path.endswith(".tar")


def test_a_prefix_with_a_slash_is_refused(call, tmp_path):
    done = call("--archive-prefix", "../mine")

    assert done.exit_code == 2
    assert "without /" in done.output
    assert not list(tmp_path.parent.glob("mine-*"))
