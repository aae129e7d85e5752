"""The plugin as a runtime finds it in its plugin folder."""

import json
import os
import subprocess

import pytest

from pycilium.cni import launcher
from tests.unit.cni.runtimes import environment


def test_the_file_is_the_plugin(tmp_path):
    path = tmp_path / "cilium-cni"

    launcher.write(str(path))

    done = subprocess.run([path], input=b"", env=environment("VERSION"), capture_output=True, check=True)
    assert json.loads(done.stdout)["cniVersion"] == "1.1.0"
    assert os.listdir(tmp_path) == ["cilium-cni"]


def test_an_older_file_is_replaced(tmp_path):
    path = tmp_path / "cilium-cni"
    path.write_text("old")

    launcher.write(str(path))

    assert path.read_text() == launcher.text()


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        launcher.write(str(tmp_path / "no" / "cilium-cni"))
