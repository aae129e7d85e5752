"""What the image is made of, as far as it can be told without making one."""

from __future__ import annotations

import tomllib
from email import message_from_string
from pathlib import Path

import build_image
import pytest

from tests.image.calls import programs

ROOT = Path(__file__).parents[3]

PROVIDED: dict[str, tuple[str, ...]] = {
    "jq": ("jq",),
    "libbpf1": (),
    "ca-certificates": (),
    "libstdc++6": (),
    "mount": ("mount",),
    "python3": (),
    "util-linux": ("nsenter",),
}
ESSENTIAL = {"sh", "grep", "cat", "uname", "rm", "tail", "/usr/bin/cat", "/usr/bin/ls"}
OURS = {"/usr/bin/gops"}
"""Made by the image itself (layout.sh)."""


def test_every_program_that_the_manifests_call_is_in_a_package_of_the_image():
    packages = build_image.packages((ROOT / "image/packages").read_text())
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]

    assert sorted(PROVIDED) == packages
    assert programs() <= ESSENTIAL | OURS | set(scripts) | {program for name in packages for program in PROVIDED[name]}


def test_each_command_of_ours_is_on_the_images_path():
    laid = (ROOT / "image/layout.sh").read_text()

    assert not {name for name in programs() if name.startswith("cilium") and name not in laid}


def test_a_dockerfile_says_the_configuration_once_for_both_ways_to_the_image():
    text = 'FROM a AS b\nENV A=1\n\nFROM b\nRUN x \\\n    && y\nENV B=2\nLABEL c="d e"\nCMD ["z"]\n'

    assert build_image.configuration(text) == ["ENV B=2", 'LABEL c="d e"', 'CMD ["z"]']


@pytest.mark.parametrize(
    ("metadata", "licences"),
    [
        ("License-Expression: MIT", [{"expression": "MIT", "acknowledgement": "declared"}]),
        ("Classifier: License :: OSI Approved :: BSD License", [{"license": {"name": "BSD License"}}]),
        ("License: Apache 2.0", [{"license": {"name": "Apache 2.0"}}]),
        ("Summary: none", None),
    ],
    ids=["an expression", "a classifier", "words", "nothing"],
)
def test_a_distributions_licence_is_what_its_metadata_says(metadata, licences):
    component = build_image.distribution(message_from_string(f"Name: A_b.c\nVersion: 1\n{metadata}\n"))

    assert component["purl"] == "pkg:pypi/a-b-c@1"
    assert component.get("licenses") == licences
