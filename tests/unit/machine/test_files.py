"""Files of an installation."""

from __future__ import annotations

import pytest

from pycilium.errors import InstallRefused
from pycilium.machine.files import Files
from pycilium.machine.plan import CNI_FOLDER, RECORD, File

SCRIPT = File("opt/cni/bin/cilium-cni", "#!", 0o755)


def content(root):
    return {str(path.relative_to(root)): path.read_text() for path in root.rglob("*") if path.is_file()}


def test_a_file_is_written_once(tmp_path):
    files = Files(tmp_path)
    files.write(SCRIPT)
    files.write(SCRIPT)
    assert files.done == ["write /opt/cni/bin/cilium-cni"]
    assert (tmp_path / SCRIPT.path).stat().st_mode & 0o777 == 0o755
    assert content(tmp_path) == {SCRIPT.path: "#!"}


def test_a_dry_run_says_what_it_would_do_and_does_nothing(tmp_path):
    files = Files(tmp_path, dry_run=True)
    files.write(SCRIPT)
    assert files.done == ["write /opt/cni/bin/cilium-cni"]
    assert content(tmp_path) == {}


def test_what_was_put_aside_comes_back_unless_there_is_a_new_one(tmp_path):
    (tmp_path / CNI_FOLDER).mkdir(parents=True)
    for name in ("a.conf", "b.conf"):
        (tmp_path / CNI_FOLDER / name).write_text(f"old {name}")
    files = Files(tmp_path)
    for name in ("a.conf", "b.conf", "never-there.conf"):
        files.put_aside(name)
    (tmp_path / CNI_FOLDER / "b.conf").write_text("new")
    for name in ("a.conf", "b.conf", "never-there.conf"):
        files.put_back(name)
    assert content(tmp_path) == {
        f"{CNI_FOLDER}/a.conf": "old a.conf",
        f"{CNI_FOLDER}/b.conf": "new",
        f"{CNI_FOLDER}/b.conf.cilium_bak": "old b.conf",
    }


@pytest.mark.parametrize("damaged", ["", "{", "[]"])
def test_a_damaged_record_is_one_of_which_nothing_is_known(tmp_path, damaged):
    files = Files(tmp_path)
    assert files.record() is None
    files.save_record(["a"], ["b"])
    assert files.record() == {"files": ["a"], "aside": ["b"]}
    (tmp_path / RECORD).write_text(damaged)
    assert not files.record()


def test_what_cannot_be_written_is_named_and_leaves_nothing_half_made(tmp_path):
    (tmp_path / "opt").write_text("a file where a folder should be")
    with pytest.raises(InstallRefused, match=r"opt/cni/bin/cilium-cni: .*run the same command again"):
        Files(tmp_path).write(SCRIPT)
    assert content(tmp_path) == {"opt": "a file where a folder should be"}
