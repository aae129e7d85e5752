"""What one agent leaves for the next: whole files, and damage that costs no more than what it hit."""

import json
from pathlib import Path

import pytest

from pycilium.agent.endpoints.files import EndpointFiles, queued_deletes
from pycilium.api.cni_messages import CniRequest
from pycilium.cni import delete_queue
from pycilium.errors import CiliumError
from tests.unit.endpoint.builders import endpoint

REQUEST = {"container_id": "abc", "ifname": "eth0", "netns": "", "args": {}, "config": {"name": "net"}}


class TestEndpoints:
    def test_the_next_agent_finds_what_was_saved(self, tmp_path):
        files = EndpointFiles(tmp_path)
        for number in (10, 9):
            files.save(endpoint(endpoint_id=number))

        assert EndpointFiles(tmp_path).load().items == (endpoint(endpoint_id=9), endpoint(endpoint_id=10))

    def test_nothing_saved_is_nothing_found(self, tmp_path):
        assert EndpointFiles(tmp_path / "new").load().items == ()

    def test_saving_again_replaces(self, tmp_path):
        files = EndpointFiles(tmp_path)
        files.save(endpoint())
        files.save(endpoint(sec_identity=301))

        assert files.load().items == (endpoint(sec_identity=301),)

    def test_a_removed_one_is_gone_and_removing_again_is_no_error(self, tmp_path):
        files = EndpointFiles(tmp_path)
        files.save(endpoint())
        files.remove(7)
        files.remove(7)

        assert files.load().items == ()

    def test_a_damaged_file_is_set_aside_and_named_and_the_others_are_read(self, tmp_path):
        files = EndpointFiles(tmp_path)
        files.save(endpoint(endpoint_id=8))
        folder = tmp_path / "state" / "endpoints"
        (folder / "7.json").write_bytes(b'{"version": 1, "endpo')
        (folder / "9.json").write_bytes((folder / "8.json").read_bytes())

        found = files.load()

        assert found.items == (endpoint(endpoint_id=8),)
        assert len(found.damaged) == 2
        assert "7.json" in found.damaged[0]
        assert "set aside as 7.damaged" in found.damaged[0]
        assert "holds endpoint 8" in found.damaged[1]
        assert sorted(path.name for path in folder.iterdir()) == ["7.damaged", "8.json", "9.damaged"]
        assert files.load().damaged == ()

    def test_a_full_disk_leaves_the_old_file_and_says_which(self, tmp_path):
        files = EndpointFiles(tmp_path)
        files.save(endpoint())

        (tmp_path / "state" / "endpoints" / "7.new").symlink_to("/dev/full")
        with pytest.raises(CiliumError, match=r"7\.json cannot be written: No space left"):
            files.save(endpoint(sec_identity=301))

        assert files.load().items == (endpoint(),)
        assert [path.name for path in (tmp_path / "state" / "endpoints").iterdir()] == ["7.json"]


class TestDeleteQueue:
    def test_the_agent_finds_what_the_plugin_queued_until_it_is_done(self, tmp_path: Path):
        delete_queue.enqueue(str(tmp_path / "cilium.sock"), "abc:eth0", json.dumps(REQUEST).encode())

        (queued,) = queued_deletes(tmp_path).items
        assert queued.request == CniRequest(container_id="abc", ifname="eth0", config={"name": "net"})

        queued.done()
        assert queued_deletes(tmp_path).items == ()

    def test_one_request_per_attachment_is_kept(self, tmp_path):
        for _ in range(2):
            delete_queue.enqueue(str(tmp_path / "cilium.sock"), "abc:eth0", json.dumps(REQUEST).encode())

        assert len(queued_deletes(tmp_path).items) == 1

    def test_a_damaged_request_is_set_aside(self, tmp_path):
        path = delete_queue.enqueue(str(tmp_path / "cilium.sock"), "abc:eth0", b"{")

        found = queued_deletes(tmp_path)

        assert found.items == ()
        assert path in found.damaged[0]
