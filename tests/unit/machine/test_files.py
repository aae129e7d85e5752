"""Files of an installation."""

from __future__ import annotations

import pytest

from pycilium.errors import InstallRefused
from pycilium.install import cni_configuration
from pycilium.machine import plan
from pycilium.machine.files import Files
from pycilium.machine.plan import CNI_FOLDER, RECORD, File

SCRIPT = File("opt/cni/bin/cilium-cni", "#!", 0o755)


def content(root):
    return {str(path.relative_to(root)): path.read_text() for path in root.rglob("*") if path.is_file()}


def test_a_file_is_written_once(tmp_path):
    files = Files(tmp_path)
    files.write(SCRIPT)
    files.write(SCRIPT)
    assert files.done == [f"write {tmp_path}/opt/cni/bin/cilium-cni"]
    assert (tmp_path / SCRIPT.path).stat().st_mode & 0o777 == 0o755
    assert content(tmp_path) == {SCRIPT.path: "#!"}


def test_a_dry_run_says_what_it_would_do_and_does_nothing(tmp_path):
    files = Files(tmp_path, dry_run=True)
    files.write(SCRIPT)
    assert files.done == [f"write {tmp_path}/opt/cni/bin/cilium-cni"]
    assert content(tmp_path) == {}


def test_a_dry_run_says_once_what_it_would_remove(tmp_path):
    Files(tmp_path).write(SCRIPT)
    files = Files(tmp_path, dry_run=True)
    files.remove(SCRIPT.path)
    files.remove(SCRIPT.path)
    assert files.done == [f"remove {tmp_path}/opt/cni/bin/cilium-cni"]
    assert content(tmp_path) == {SCRIPT.path: SCRIPT.content}


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


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"files": 3, "aside": []}', '{"files": [3], "aside": []}', None])
def test_what_was_installed_is_found_where_its_record_is_damaged_or_gone(tmp_path, damage):
    files = Files(tmp_path)
    assert files.record() is None
    files.write(SCRIPT)
    files.write(plan.unit("/cilium-agent"))
    files.write(File(f"{CNI_FOLDER}/01-other.conf.cilium_bak", "{}"))
    files.save_record(["a"], ["b"])
    assert files.record() == {"files": ["a"], "aside": ["b"]}

    if damage is None:
        (tmp_path / RECORD).unlink()
    else:
        (tmp_path / RECORD).write_text(damage)

    assert files.record() == {"files": [SCRIPT.path, plan.UNIT], "aside": ["01-other.conf"]}


def test_a_clusters_network_is_no_installation_on_this_machine(tmp_path):
    Files(tmp_path).write(File(plan.CONFLIST, cni_configuration.text("/run/cilium/cilium.sock")))
    assert Files(tmp_path).record() is None

    Files(tmp_path).write(plan.conflist())
    assert Files(tmp_path).record() == {"files": [plan.CONFLIST], "aside": []}


def test_what_cannot_be_written_is_named_and_leaves_nothing_half_made(tmp_path):
    (tmp_path / "opt").write_text("a file where a folder should be")
    with pytest.raises(InstallRefused, match=r"opt/cni/bin/cilium-cni: .*run the same command again"):
        Files(tmp_path).write(SCRIPT)
    assert content(tmp_path) == {"opt": "a file where a folder should be"}
