"""podman's databases, as podman 4 and 5 write them."""

from __future__ import annotations

import contextlib
import fcntl
import json
import sqlite3

import pytest

from pycilium.agent.runtimes import Container, Runtimes, open_runtimes
from pycilium.agent.runtimes import podman as podman_module
from pycilium.agent.runtimes.podman import Podman
from pycilium.errors import ConfigError, RuntimeUnreadable
from tests.unit.agent.runtimes.bolt_file import written

WEB, MEMBER, POD = "aa" * 32, "bb" * 32, "cc" * 32
CONTAINERS = {
    WEB: {"id": WEB, "name": "web", "labels": {"app": "web"}, "lockID": 3},
    MEMBER: {"id": MEMBER, "name": "cccccccccccc-infra", "pod": POD},
}
PODS = {POD: {"id": POD, "name": "shop", "labels": {"app": "shop"}}}


@pytest.fixture(params=["bbolt", "SQLite"])
def root(request, tmp_path):
    if request.param == "bbolt":
        (tmp_path / "libpod").mkdir()
        (tmp_path / "libpod" / "bolt_state.db").write_bytes(
            written(
                {
                    b"ctr": {
                        key.encode(): {b"config": _json(value), b"state": b"{}"} for key, value in CONTAINERS.items()
                    },
                    b"pod": {key.encode(): {b"config": _json(value), b"state": b"{}"} for key, value in PODS.items()},
                }
            )
        )
        return tmp_path
    with contextlib.closing(sqlite3.connect(tmp_path / "db.sql")) as db, db:
        for table, rows in (("ContainerConfig", CONTAINERS), ("PodConfig", PODS)):
            db.execute(f"CREATE TABLE {table} (ID TEXT PRIMARY KEY, JSON TEXT NOT NULL)")
            db.executemany(
                f"INSERT INTO {table} VALUES (?, ?)", [(key, _json(value).decode()) for key, value in rows.items()]
            )
    return tmp_path


def _json(value):
    return json.dumps(value).encode()


async def test_a_container_has_its_own_name_and_labels(root):
    assert await Podman(str(root)).container(WEB) == Container("web", {"app": "web"})


async def test_a_container_in_a_pod_goes_by_the_pod(root):
    assert await Podman(str(root)).container(MEMBER) == Container("shop", {"app": "shop"})


@pytest.mark.parametrize("container_id", ["dd" * 32, "default-web", ""])
async def test_what_it_does_not_know_is_nothing(root, container_id):
    assert await Podman(str(root)).container(container_id) is None


def test_it_is_there_if_a_database_is(root, tmp_path):
    assert Podman(str(root)).is_there
    assert not Podman(str(tmp_path / "elsewhere")).is_there


async def test_a_database_that_a_podman_keeps_locked_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(podman_module, "_PATIENCE_S", 0.0)
    (tmp_path / "libpod").mkdir()
    path = tmp_path / "libpod" / "bolt_state.db"
    path.write_bytes(written({}))
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(RuntimeUnreadable, match=r"bolt_state\.db: locked by a podman"):
            await Podman(str(tmp_path)).container(WEB)


async def test_a_damaged_database_costs_labels_and_nothing_else(tmp_path):
    (tmp_path / "db.sql").write_bytes(b"no database")
    runtimes = Runtimes([Podman(str(tmp_path))])
    assert await runtimes.container(WEB) is None
    assert "db.sql" in runtimes.problems["podman"]


@pytest.mark.parametrize("url", ["podman", "podman://relative", "lxc:///run/lxc", ""])
def test_a_url_that_names_no_runtime_is_refused(url):
    with pytest.raises(ConfigError, match="container_runtimes"):
        open_runtimes([url])
