"""Where systemd says that a unit's processes are, or will be."""

from __future__ import annotations

import pytest

from pycilium.cli.systemd_units import cgroup_in, cgroup_of_unit, socket_units_in
from pycilium.errors import InvalidResource, NotFound

ROOT = "\nId=-.slice\nLoadState=loaded\nControlGroup=/\nSlice=\n"
SHOWN = {
    "running": "Id=web.service\nLoadState=loaded\nControlGroup=/system.slice/web.service\nSlice=system.slice\n",
    "not running": "Id=web.service\nLoadState=loaded\nControlGroup=\nSlice=system.slice\n",
    "in a slice within others": "Id=web.service\nLoadState=loaded\nControlGroup=\nSlice=shop-front.slice\n",
    "in the root": "Id=web.service\nLoadState=loaded\nControlGroup=\nSlice=-.slice\n",
    "of nobody's slice": "Id=web.service\nLoadState=loaded\nControlGroup=\nSlice=\n",
    "a slice": "Id=shop-front.slice\nLoadState=loaded\nControlGroup=\nSlice=shop.slice\n",
    "called like a file of the kernel": "Id=memory.service\nLoadState=loaded\nControlGroup=\nSlice=io.slice\n",
}
CGROUPS = {
    "running": "/system.slice/web.service",
    "not running": "/system.slice/web.service",
    "in a slice within others": "/shop.slice/shop-front.slice/web.service",
    "in the root": "/web.service",
    "of nobody's slice": "/system.slice/web.service",
    "a slice": "/shop.slice/shop-front.slice",
    "called like a file of the kernel": "/_io.slice/_memory.service",
}


@pytest.mark.parametrize("unit", SHOWN)
def test_a_unit_has_its_cgroup_or_will_have_it(unit: str) -> None:
    assert cgroup_in("web.service", SHOWN[unit] + ROOT) == CGROUPS[unit]


def test_a_stopped_unit_that_is_named_by_an_alias_has_the_cgroup_of_its_own_name() -> None:
    assert cgroup_in("mysql.service", SHOWN["not running"] + ROOT) == "/system.slice/web.service"


def test_a_stopped_unit_of_a_systemd_that_runs_in_a_cgroup_itself_will_be_below_that() -> None:
    root = ROOT.replace("ControlGroup=/", "ControlGroup=/box")

    assert cgroup_in("web.service", SHOWN["not running"] + root) == "/box/system.slice/web.service"


def test_socket_units_are_told_from_all_else_that_starts_a_service() -> None:
    shown = SHOWN["running"] + "TriggeredBy=web.socket web.timer web-tls.socket web.path\n" + ROOT

    assert socket_units_in(shown) == ["web.socket", "web-tls.socket"]
    assert socket_units_in(SHOWN["running"] + ROOT) == []


def test_a_unit_without_processes_is_refused() -> None:
    with pytest.raises(InvalidResource, match=r"web\.timer has no processes: name a service"):
        cgroup_in("web.timer", "Id=web.timer\nLoadState=loaded\n" + ROOT)


@pytest.mark.parametrize("shown", ["Id=web.service\nLoadState=not-found\nControlGroup=\nSlice=\n" + ROOT, ""])
def test_a_unit_that_systemd_does_not_know_is_named(shown: str) -> None:
    with pytest.raises(NotFound, match=r"systemd knows no unit web\.service"):
        cgroup_in("web.service", shown)


def test_a_template_is_told_apart_from_what_is_made_of_it() -> None:
    with pytest.raises(InvalidResource, match=r"web@\.service is a template.* name one .* such as web@1\.service"):
        cgroup_of_unit("web@.service")


@pytest.mark.parametrize("unit", ["web", "system.slice/web.service"])
def test_what_is_no_unit_is_refused(unit: str) -> None:
    with pytest.raises(InvalidResource, match="is no unit"):
        cgroup_of_unit(unit)
