"""Where systemd says that a unit's processes are, or will be."""

from __future__ import annotations

import pytest

from pycilium.cli.systemd_units import cgroup_in, cgroup_of_unit
from pycilium.errors import InvalidResource, NotFound

SHOWN = {
    "running": ("LoadState=loaded\nControlGroup=/system.slice/web.service\nSlice=system.slice\n"),
    "not running": "LoadState=loaded\nControlGroup=\nSlice=system.slice\n",
    "in a slice within others": "LoadState=loaded\nControlGroup=\nSlice=shop-front.slice\n",
    "in the root": "LoadState=loaded\nControlGroup=\nSlice=-.slice\n",
    "of nobody's slice": "LoadState=loaded\nControlGroup=\nSlice=\n",
}
CGROUPS = {
    "running": "/system.slice/web.service",
    "not running": "/system.slice/web.service",
    "in a slice within others": "/shop.slice/shop-front.slice/web.service",
    "in the root": "/web.service",
    "of nobody's slice": "/system.slice/web.service",
}


@pytest.mark.parametrize("unit", SHOWN)
def test_a_unit_has_its_cgroup_or_will_have_it(unit: str) -> None:
    assert cgroup_in("web.service", SHOWN[unit]) == CGROUPS[unit]


@pytest.mark.parametrize("shown", ["LoadState=not-found\nControlGroup=\nSlice=\n", ""])
def test_a_unit_that_systemd_does_not_know_is_named(shown: str) -> None:
    with pytest.raises(NotFound, match=r"systemd knows no unit web\.service"):
        cgroup_in("web.service", shown)


@pytest.mark.parametrize("unit", ["web", "system.slice/web.service"])
def test_what_is_no_unit_is_refused(unit: str) -> None:
    with pytest.raises(InvalidResource, match="is no unit"):
        cgroup_of_unit(unit)
