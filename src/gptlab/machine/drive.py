"""What a run needs from its drive: atomic renames and forced writes.

A checkpoint is written under another name and renamed, so that a folder with its name is complete. That works on a
local disk. On some mounted drives (Colab's, some network drives) a rename copies, or the old file is missing for a
while, so a crash at a bad moment could cost more than the newest checkpoint.
"""

import os
import tempfile
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gptlab.storage import sync_folder

ROUNDS = 20
SLOW_S = 1.0  # for a few bytes, written, forced to the disk and renamed


@dataclass(frozen=True)
class Drive:
    """How a folder's drive behaved."""

    save_s: float
    """Median time to write a small file aside, force it to the disk and rename it, in seconds."""
    gaps: int
    """How often a file was missing or incomplete while it was being replaced."""
    folders: bool
    """Whether a folder with files in it can be renamed."""
    syncs: bool
    """Whether a folder's entries can be forced to the disk."""

    @property
    def keeps(self) -> bool:
        """Whether a crash loses only what was written since the last checkpoint."""
        return self.gaps == 0 and self.folders

    @property
    def complaints(self) -> list[str]:
        """Its faults, a clause each."""
        found = [
            (self.gaps > 0, f"a file was missing {self.gaps} times while it was replaced"),
            (not self.folders, "a folder cannot be renamed"),
            (self.save_s > SLOW_S, f"a small file takes {self.save_s:.1f} s to save"),
        ]
        return [text for wrong, text in found if wrong]


def probe(folder: Path) -> Drive:
    """Test a folder's drive with a few small files, which are removed afterwards.

    Raises:
        OSError: the folder cannot be written to.
    """
    with tempfile.TemporaryDirectory(prefix=".gptlab-probe-", dir=folder) as name:
        place = Path(name)
        file, aside = place / "file", place / "aside"
        file.write_text("0" * 100)
        seconds: list[float] = []
        with _watching(file) as gaps:
            for number in range(ROUNDS):
                began = time.perf_counter()
                with aside.open("w") as stream:
                    stream.write(str(number % 10) * 100)
                    stream.flush()
                    os.fsync(stream.fileno())
                aside.replace(file)
                seconds.append(time.perf_counter() - began)
        return Drive(sorted(seconds)[ROUNDS // 2], len(gaps), _renames_folders(place), sync_folder(place))


@contextmanager
def _watching(file: Path) -> Generator[list[str]]:
    """Read a file all the time, and collect every content that is neither the old nor the new one."""
    gaps: list[str] = []
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            try:
                text = file.read_text()
            except OSError as error:
                gaps.append(str(error))
            else:
                if len(text) != 100 or len(set(text)) != 1:
                    gaps.append(text)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield gaps
    finally:
        done.set()
        thread.join()


def _renames_folders(place: Path) -> bool:
    old, new = place / "old", place / "new"
    old.mkdir()
    (old / "inside").write_text("x")
    try:
        old.rename(new)
        return (new / "inside").read_text() == "x" and not old.exists()
    except OSError:
        return False
