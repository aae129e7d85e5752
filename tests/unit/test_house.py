"""What must not drift apart: generated files, layers, documents."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def run(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *argv], cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("generator", sorted(path.name for path in (ROOT / "tools").glob("gen_*.py")))
def test_generated_files_are_what_would_be_generated(generator):
    done = run(f"tools/{generator}", "--check")

    assert done.returncode == 0, f"run `make gen`\n{done.stdout}{done.stderr}"


def test_imports_point_down():
    done = run("-c", "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports())")

    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("group", ["dependencies", "dev"])
def test_every_dependency_has_its_reason(group):
    wanted = PROJECT["dependencies"] if group == "dependencies" else PROJECT["optional-dependencies"][group]
    page = (ROOT / "docs" / "dependencies.md").read_text().replace("`types-*`", " ".join(wanted))

    names = [re.split(r"[<>=]", requirement)[0] for requirement in wanted]

    assert [name for name in names if name not in page] == []


@pytest.mark.parametrize(
    "page", ["README.md", "CONTRIBUTING.md", *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
)
def test_links_lead_somewhere(page):
    path = ROOT / page
    targets = re.findall(r"\]\((?!https?:)([^)#]+)\)", path.read_text())

    assert [target for target in targets if not (path.parent / target).exists()] == []


def test_the_ci_runs_the_command_of_the_readme():
    command = re.search(r"^## Tests\n.*?^(make \w+)", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)

    assert command is not None
    assert f"{command[1].removeprefix('make ')}:" in (ROOT / "Makefile").read_text()
