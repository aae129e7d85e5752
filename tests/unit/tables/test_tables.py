"""Tables: transactions, snapshots, indexes and changes; and, for any history at all, against plain dictionaries."""

from __future__ import annotations

import gc
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pycilium.tables import Change, Database


@dataclass(frozen=True)
class Pod:
    name: str
    node: str = ""
    labels: tuple[str, ...] = ()


@pytest.fixture
def db():
    return Database()


@pytest.fixture
def pods(db):
    return db.table(
        "pods", key=lambda pod: pod.name, indexes={"node": lambda pod: [pod.node], "label": lambda pod: pod.labels}
    )


def insert(db, table, *objs):
    with db.write() as txn:
        for obj in objs:
            txn.insert(table, obj)


class TestTransactions:
    def test_insert_and_delete_return_what_was_there(self, db, pods):
        with db.write() as txn:
            assert txn.insert(pods, Pod("a", "node1")) is None
            assert txn.insert(pods, Pod("a", "node2")) == Pod("a", "node1")
            assert txn.delete(pods, "a") == Pod("a", "node2")
            assert txn.delete(pods, "a") is None

    def test_a_transaction_reads_its_own_writes_and_nobody_else_does(self, db, pods):
        with db.write() as txn:
            txn.insert(pods, Pod("a", "node1"))

            assert txn.get(pods, "a") == Pod("a", "node1")
            assert list(txn.by(pods, "node", "node1")) == [Pod("a", "node1")]
            assert db.snapshot().get(pods, "a") is None

        assert db.snapshot().get(pods, "a") == Pod("a", "node1")

    def test_a_transaction_that_raises_leaves_nothing_behind(self, db, pods):
        changes = pods.changes()
        with pytest.raises(_AbortError), db.write() as txn:
            _insert_and_abort(txn, pods)

        assert db.snapshot().count(pods) == 0
        assert db.revision == 0
        assert changes.drain() == []

    def test_each_commit_is_one_revision_of_the_tables_it_changed(self, db, pods):
        nodes = db.table("nodes", key=str)
        insert(db, pods, Pod("a"), Pod("b"))
        insert(db, nodes, "node1")

        snapshot = db.snapshot()

        assert (snapshot.revision(pods), snapshot.revision(nodes), db.revision) == (1, 2, 2)

    def test_putting_in_an_equal_object_is_no_change(self, db, pods):
        insert(db, pods, Pod("a"))
        insert(db, pods, Pod("a"))

        assert db.revision == 1

    def test_write_transactions_do_not_nest(self, db):
        with db.write(), pytest.raises(RuntimeError, match="do not nest"), db.write():
            pass

    def test_replace_all_makes_the_whole_content(self, db, pods):
        insert(db, pods, Pod("kept"), Pod("gone"))
        changes = pods.changes(from_start=False)

        with db.write() as txn:
            txn.replace_all(pods, [Pod("kept"), Pod("new")])

        assert {pod.name for pod in db.snapshot().all(pods)} == {"kept", "new"}
        assert {change.key for change in changes.drain()} == {"gone", "new"}

    def test_a_table_name_stands_once(self, db, pods):
        with pytest.raises(ValueError, match="pods"):
            db.table("pods", key=str)


class TestSnapshots:
    def test_a_snapshot_stays_as_it_was(self, db, pods):
        insert(db, pods, Pod("a", "node1"), Pod("b", "node1"))
        before = db.snapshot()

        with db.write() as txn:
            txn.delete(pods, "a")
            txn.insert(pods, Pod("b", "node2"))

        assert before.get(pods, "a") == Pod("a", "node1")
        assert before.count(pods) == 2
        assert {pod.name for pod in before.by(pods, "node", "node1")} == {"a", "b"}
        assert list(db.snapshot().by(pods, "node", "node1")) == []

    def test_a_snapshot_shows_itself_in_one_line(self, db, pods):
        insert(db, pods, Pod("a"))

        assert repr(db.snapshot()) == "<snapshot at 1: pods: 1>"


class TestChanges:
    def test_changes_come_once_for_each_key_however_often_it_changed(self, db, pods):
        insert(db, pods, Pod("a", "node1"))
        changes = pods.changes()
        insert(db, pods, Pod("a", "node2"))
        insert(db, pods, Pod("b", "node1"))
        insert(db, pods, Pod("a", "node3"))

        assert changes.drain() == [Change("a", None, Pod("a", "node3")), Change("b", None, Pod("b", "node1"))]
        assert changes.drain() == []

    def test_there_and_back_is_no_change(self, db, pods):
        insert(db, pods, Pod("a", "node1"))
        changes = pods.changes(from_start=False)

        insert(db, pods, Pod("a", "node2"), Pod("b"))
        with db.write() as txn:
            txn.insert(pods, Pod("a", "node1"))
            txn.delete(pods, "b")

        assert changes.drain() == []

    def test_readers_are_independent(self, db, pods):
        first, second = pods.changes(), pods.changes()
        insert(db, pods, Pod("a"))

        first.drain()

        assert second.drain() == [Change("a", None, Pod("a"))]

    def test_a_dropped_reader_is_forgotten(self, db, pods):
        changes = pods.changes()
        del changes
        gc.collect()

        assert len(db._followers["pods"]) == 0

    def test_commits_are_announced_with_the_tables_they_changed(self, db, pods):
        announced = []
        nodes = db.table("nodes", key=str)
        db.on_commit(announced.append)

        with db.write() as txn:
            txn.insert(pods, Pod("a"))
            txn.insert(nodes, "node1")
        with db.write() as txn:
            txn.delete(pods, "missing")

        assert announced == [frozenset({"pods", "nodes"})]

    def test_an_announced_commit_may_be_answered_with_another(self, db, pods):
        nodes = db.table("nodes", key=str)
        db.on_commit(lambda names: insert(db, nodes, "node1") if "pods" in names else None)

        insert(db, pods, Pod("a"))

        assert db.snapshot().count(nodes) == 1


PODS = st.builds(
    Pod,
    st.sampled_from("abcd"),
    st.sampled_from(["node1", "node2"]),
    st.lists(st.sampled_from("xyz"), max_size=3).map(tuple),
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("insert"), PODS),
        st.tuples(st.just("delete"), st.sampled_from("abcd")),
        st.just(("commit", None)),
        st.just(("abort", None)),
        st.just(("drain", None)),
    ),
    max_size=40,
)


class _AbortError(Exception):
    pass


def _abort():
    raise _AbortError


def _insert_and_abort(txn, pods):
    txn.insert(pods, Pod("a"))
    _abort()


@settings(deadline=None)  # machines are busy
@given(STEPS)
def test_for_any_history_tables_indexes_and_changes_agree_with_plain_dictionaries(steps):
    db = Database()
    pods = db.table(
        "pods", key=lambda pod: pod.name, indexes={"node": lambda pod: [pod.node], "label": lambda pod: pod.labels}
    )
    changes, known = pods.changes(), {}
    committed: dict[str, Pod] = {}
    kept_snapshots = []

    def drain():
        for change in changes.drain():
            assert known.get(change.key) == change.old
            assert change.old != change.new
            if change.new is None:
                del known[change.key]
            else:
                known[change.key] = change.new

    batch = []
    for what, value in [*steps, ("commit", None), ("drain", None)]:
        if what in ("insert", "delete"):
            batch.append((what, value))
        elif what == "drain":
            drain()
            assert known == committed
        else:
            working = dict(committed)
            try:
                with db.write() as txn:
                    for each, operand in batch:
                        if each == "insert":
                            assert txn.insert(pods, operand) == working.get(operand.name)
                            working[operand.name] = operand
                        else:
                            assert txn.delete(pods, operand) == working.pop(operand, None)
                    if what == "abort":
                        _abort()
                committed = working
            except _AbortError:
                pass
            batch = []
            kept_snapshots.append((db.snapshot(), committed))
    for snapshot, content in kept_snapshots:
        assert {pod.name: pod for pod in snapshot.all(pods)} == content
        for node in ("node1", "node2"):
            found = list(snapshot.by(pods, "node", node))
            assert len(found) == len({pod.name for pod in found})
            assert set(found) == {pod for pod in content.values() if pod.node == node}
        for label in "xyz":
            assert set(snapshot.by(pods, "label", label)) == {pod for pod in content.values() if label in pod.labels}
