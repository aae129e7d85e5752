"""Files of an installation below a root: written in one step each, renamed aside and back, remembered in a record."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pycilium.errors import InstallRefused
from pycilium.machine.plan import ASIDE, CNI_FOLDER, CONFLIST, KNOWN, RECORD, UNIT, File, conflist, is_record


class Files:
    """With `dry_run` nothing is changed; `done` says what would be."""

    def __init__(self, root: Path, *, dry_run: bool = False) -> None:
        self.root, self._dry_run = root, dry_run
        self.done: list[str] = []

    def read(self, path: str) -> str | None:
        """None if there is no such file."""
        with _told(self.root / path):
            try:
                return (self.root / path).read_text(encoding="utf-8")
            except FileNotFoundError:
                return None

    def names(self, folder: str) -> list[str]:
        place = self.root / folder
        return sorted(entry.name for entry in place.iterdir() if entry.is_file()) if place.is_dir() else []

    def write(self, file: File) -> None:
        """In one step: whoever reads finds the old file or the new one, also if the disk is full or the power fails."""
        place = self.root / file.path
        with _told(place):
            if self.read(file.path) == file.content and place.stat().st_mode & 0o777 == file.mode:
                return
        self.done.append(f"write {place}")
        if self._dry_run:
            return
        new = place.with_name(f".{place.name}.new")
        with _told(place):
            place.parent.mkdir(parents=True, exist_ok=True)
            try:
                with new.open("w", encoding="utf-8") as out:
                    out.write(file.content)
                    out.flush()
                    os.fsync(out.fileno())
                new.chmod(file.mode)
                new.replace(place)
            finally:
                new.unlink(missing_ok=True)

    def remove(self, path: str) -> None:
        """Absent is success."""
        place = self.root / path
        step = f"remove {place}"
        if not place.exists() or step in self.done:
            return
        self.done.append(step)
        if not self._dry_run:
            with _told(place):
                place.unlink(missing_ok=True)

    def put_aside(self, name: str) -> None:
        self._rename(f"{CNI_FOLDER}/{name}", f"{CNI_FOLDER}/{name}{ASIDE}")

    def put_back(self, name: str) -> None:
        """Unless somebody has written it anew meanwhile."""
        if not (self.root / CNI_FOLDER / name).exists():
            self._rename(f"{CNI_FOLDER}/{name}{ASIDE}", f"{CNI_FOLDER}/{name}")

    def _rename(self, old: str, new: str) -> None:
        if not (self.root / old).exists():
            return
        self.done.append(f"rename {self.root / old} to {new.rpartition('/')[2]}")
        if not self._dry_run:
            with _told(self.root / old):
                (self.root / old).replace(self.root / new)

    # == the record ==

    def record(self) -> dict[str, Any] | None:
        """What an installation before wrote down; None if there was none, or it has been removed.

        Where what it wrote is lost or damaged and there is one all the same, what is found of it.
        """
        written = self.read(RECORD)
        if written is None and not self._has_one():
            return None
        try:
            found = json.loads(written or "")
        except ValueError:
            found = None
        return found if is_record(found) else self._found()

    def _has_one(self) -> bool:
        """A cluster's agent has neither such a unit nor such a network."""
        return (self.root / UNIT).exists() or self.read(CONFLIST) == conflist().content

    def _found(self) -> dict[str, Any]:
        aside = [name.removesuffix(ASIDE) for name in self.names(CNI_FOLDER) if name.endswith(ASIDE)]
        return {"files": [path for path in KNOWN if (self.root / path).exists()], "aside": aside}

    def save_record(self, files: list[str], aside: list[str]) -> None:
        content = {"files": files, "aside": aside}
        self.write(File(RECORD, json.dumps(content, indent=2) + "\n"))


@contextmanager
def _told(place: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise InstallRefused(f"{place}: {error.strerror}: mend that and run the same command again") from error
