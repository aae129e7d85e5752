"""What is missing is said in words that tell what to do."""

from __future__ import annotations

import pytest

from pycilium.datapath import features, libbpf
from pycilium.datapath.features import Check
from pycilium.errors import DatapathError, PermissionRequired, UnsupportedFeature


@pytest.mark.parametrize(
    ("release", "version"), [("5.10.0-28-amd64", (5, 10)), ("6.18.44-fc", (6, 18)), ("4.19", (4, 19)), ("odd", (0, 0))]
)
def test_the_kernels_version_is_read_from_its_release(release: str, version: tuple[int, int]) -> None:
    assert features.kernel_version(release) == version


def test_a_kernel_too_old_is_told_the_version_that_is_needed() -> None:
    with pytest.raises(UnsupportedFeature, match=r"this is Linux 5.4.0-150-generic.*Linux 5.10 or newer is needed"):
        features.require_kernel("5.4.0-150-generic")


def test_the_minimum_is_enough() -> None:
    features.require_kernel("5.10.0")


@pytest.mark.parametrize("held", [0, 1 << 39, 1 << 12])
def test_without_root_or_the_two_capabilities_it_says_so(held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "_effective_capabilities", lambda: held)

    with pytest.raises(PermissionRequired, match=r"root is needed.*sudo"):
        features.require_privileges()


@pytest.mark.parametrize("held", [1 << 21, 1 << 39 | 1 << 12])
def test_root_or_both_capabilities_are_enough(held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "_effective_capabilities", lambda: held)

    features.require_privileges()


def test_without_libbpf_the_package_to_install_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libbpf, "_LIBRARY", "libbpf.so.0-not-there")
    libbpf._library.cache_clear()
    try:
        with pytest.raises(DatapathError, match="apt-get install libbpf1"):
            libbpf.version()
    finally:
        libbpf._library.cache_clear()


def test_a_report_goes_no_further_than_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "_effective_capabilities", lambda: 0)

    checks = features.report()

    assert [(check.name, check.available) for check in checks][1] == ("privileges", False)
    assert len(checks) == 3


def test_what_is_missing_reads_as_a_sentence() -> None:
    check = Check("tcx links", available=False, needed=False, detail="clsact filters are used (Linux 6.6 has tcx)")

    assert check.words == "not available here: clsact filters are used (Linux 6.6 has tcx)"
