"""Objects are compiled when something they are made from changed, and only then."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "tools"))
import build_bpf


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with two programs and a header, and a compiler that only copies."""
    (tmp_path / "bpf/prog").mkdir(parents=True)
    for name in ("one.bpf.c", "two.bpf.c", "shared.h"):
        (tmp_path / "bpf/prog" / name).write_text(name)
    monkeypatch.setattr(build_bpf, "ROOT", tmp_path)
    monkeypatch.setattr(build_bpf, "SOURCES", tmp_path / "bpf/prog")

    def copy(source: Path, output: Path) -> None:
        output.parent.mkdir(exist_ok=True)
        output.write_text(source.read_text())

    monkeypatch.setattr(build_bpf, "compile_object", copy)
    return tmp_path


def built(tree: Path) -> list[str]:
    return sorted(path.name for path in build_bpf.build(tree / "objects"))


def test_everything_is_built_once(tree: Path) -> None:
    assert built(tree) == ["one.bpf.o", "two.bpf.o"]
    assert built(tree) == []


def test_a_changed_source_builds_its_object_alone(tree: Path) -> None:
    built(tree)
    (tree / "bpf/prog/two.bpf.c").write_text("changed")

    assert built(tree) == ["two.bpf.o"]


def test_a_changed_header_builds_everything(tree: Path) -> None:
    built(tree)
    (tree / "bpf/prog/shared.h").write_text("changed")

    assert built(tree) == ["one.bpf.o", "two.bpf.o"]


def test_an_object_without_a_source_is_removed(tree: Path) -> None:
    built(tree)
    (tree / "bpf/prog/two.bpf.c").unlink()

    built(tree)

    assert sorted(path.name for path in (tree / "objects").iterdir()) == [".one.bpf.o.inputs", "one.bpf.o"]


def test_what_does_not_compile_is_told_in_the_compilers_words(tmp_path: Path) -> None:
    (tmp_path / "bad.bpf.c").write_text("int broken(void) { return missing; }\n")

    with pytest.raises(build_bpf.CompileError, match=r"bad.bpf.c does not compile:\n(.|\n)*undeclared identifier"):
        build_bpf.compile_object(tmp_path / "bad.bpf.c", tmp_path / "bad.bpf.o")

    assert not (tmp_path / "bad.bpf.o").exists()
