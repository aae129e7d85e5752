"""Killed in the middle of installing or removing, and the same command again: the end is the same."""

from __future__ import annotations

import pytest

from pycilium.errors import ConfigError
from pycilium.machine import command, plan
from pycilium.machine.files import Files


class Killed(BaseException):
    """The process is no more."""


class Mortal(Files):
    """Dies after so many changes."""

    left = 100

    def write(self, file):
        super().write(file)
        self._age()

    def remove(self, path):
        super().remove(path)
        self._age()

    def _rename(self, old, new):
        super()._rename(old, new)
        self._age()

    def _age(self):
        if len(self.done) > type(self).left:
            raise Killed


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setattr(command, "Files", Mortal)
    monkeypatch.setattr(command, "_preflight", lambda *_, **__: None)

    def run(do, *options, changes=100):
        """Whether it came to its end."""
        Mortal.left = changes
        try:
            do.main(args=["--root", str(tmp_path), *options], standalone_mode=False)
        except Killed:
            return False
        return True

    return run


def content(root):
    return {str(path.relative_to(root)): path.read_text() for path in root.rglob("*") if path.is_file()}


def test_whatever_was_the_last_change_before_it_was_killed_the_same_command_comes_to_the_same(run, tmp_path):
    folder = tmp_path / plan.CNI_FOLDER
    folder.mkdir(parents=True)
    for name in ("01-first.conflist", "02-second.conf", "87-podman-bridge.conflist"):
        (folder / name).write_text(name)
    before = content(tmp_path)
    run(command.install, "--operator")
    installed = content(tmp_path)
    run(command.uninstall, "--purge")
    assert content(tmp_path) == before
    deaths = 0

    for changes in range(12):
        deaths += not run(command.install, "--operator", changes=changes)
        run(command.install, "--operator")
        assert content(tmp_path) == installed, f"installing, killed after {changes} changes"
        deaths += not run(command.uninstall, "--purge", changes=changes)
        run(command.uninstall, "--purge")
        assert content(tmp_path) == before, f"removing, killed after {changes} changes"

    assert deaths > 15


def test_what_uninstall_kept_can_be_purged_afterwards(run, tmp_path):
    """It said "Nothing is installed", and left the configuration and the store."""
    store = tmp_path / "var/lib/cilium/store.db"
    run(command.install)
    store.write_text("")
    run(command.uninstall)
    assert set(content(tmp_path)) == {plan.CONFIG, "var/lib/cilium/store.db"}

    run(command.uninstall, "--purge")

    assert content(tmp_path) == {}


@pytest.mark.parametrize(("damaged", "why"), [("{", "is no JSON"), ('{"old_field": 1}', "unknown field `old_field`")])
def test_a_configuration_that_cannot_be_read_says_how_to_remove_all_the_same(run, tmp_path, damaged, why):
    run(command.install)
    (tmp_path / plan.CONFIG).write_text(damaged)
    before = content(tmp_path)

    with pytest.raises(ConfigError, match=f"{why}.*; mend it, or remove it"):
        run(command.uninstall)

    assert content(tmp_path) == before
    (tmp_path / plan.CONFIG).unlink()
    run(command.uninstall)
    assert content(tmp_path) == {}
