import shutil
import time
from pathlib import Path

from gptlab.machine.drive import SLOW_S, Drive, probe


def test_a_local_disk_keeps_the_promises(tmp_path):
    drive = probe(tmp_path)
    assert drive.keeps
    assert drive.folders
    assert drive.save_s > 0
    assert list(tmp_path.iterdir()) == []


def test_a_rename_that_copies_is_noticed(tmp_path, monkeypatch):
    def slow_copy(self, target):
        Path(target).unlink()
        time.sleep(0.05)  # long enough to be seen
        shutil.copy(self, target)
        self.unlink()

    monkeypatch.setattr(Path, "replace", slow_copy)
    drive = probe(tmp_path)
    assert not drive.keeps
    assert "a file was missing" in drive.complaints[0]


def test_folders_that_stay_where_they_are(tmp_path, monkeypatch):
    def refuse(self, target):
        raise OSError("not on this drive")

    monkeypatch.setattr(Path, "rename", refuse)
    drive = probe(tmp_path)
    assert not drive.keeps
    assert drive.complaints == ["a folder cannot be renamed"]


def test_slow_drives_keep_the_promises_but_are_named():
    drive = Drive(save_s=2 * SLOW_S, gaps=0, folders=True, syncs=False)
    assert drive.keeps
    assert drive.complaints == ["a small file takes 2.0 s to save"]
