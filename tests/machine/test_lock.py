import subprocess
import sys

import pytest

from gptlab.machine import lock as locks
from gptlab.machine.lock import hold

pytest.importorskip("fcntl")


def test_it_is_gone_when_it_is_let_go(tmp_path):
    file = tmp_path / "lock"
    with hold(file):
        assert file.exists()
        with pytest.raises(BlockingIOError), hold(file):
            pass
        assert file.exists()
    assert not file.exists()


def test_the_first_of_two_who_share_leaves_the_other_locked(tmp_path):
    file = tmp_path / "lock"
    with hold(file, shared=True):
        with hold(file, shared=True):
            pass
        assert file.exists()
        with pytest.raises(BlockingIOError), hold(file):
            pass
    assert not file.exists()
    with hold(file):
        pass


def test_a_file_that_was_deleted_between_open_and_lock_is_no_lock(tmp_path, monkeypatch):
    file, real, deleted = tmp_path / "lock", locks.lock, []

    def late(opened, *, shared=False):
        if not deleted:
            file.unlink()
            deleted.append(True)
        return real(opened, shared=shared)

    monkeypatch.setattr(locks, "lock", late)
    with hold(file):
        monkeypatch.undo()
        assert deleted
        with pytest.raises(BlockingIOError), hold(file):
            pass


def test_a_killed_holder_is_no_obstacle(tmp_path):
    file = tmp_path / "lock"
    code = (
        "import os, pathlib, sys\nfrom gptlab.machine.lock import hold\n"
        "with hold(pathlib.Path(sys.argv[1])): os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code, file], check=False).returncode == 9
    assert file.exists()
    with hold(file):
        pass
    assert not file.exists()
