"""Saving: in the background, and with a fault in every one of its file operations."""

import errno
import json
import os
import shutil
import subprocess
import threading
from contextlib import suppress

import pytest
import torch

from gptlab import storage
from gptlab.errors import TrainError
from gptlab.runs import checkpoint
from gptlab.runs.metrics import MetricsLog, read_rows
from gptlab.train.saver import Saver
from gptlab.train.step import Updater

OPERATIONS = ("open", "write", "fsync", "mkdir", "rename", "replace", "unlink", "rmdir")


class Killed(BaseException):
    """Ends the process: no error handling runs."""


class Faults:
    """Counts file operations, and makes one of them fail."""

    def __init__(self, monkeypatch, at, fault):
        self.count = 0
        for name in OPERATIONS:
            plain = getattr(os, name)

            def operation(*args, plain=plain, name=name, **options):
                self.count += 1
                if self.count - 1 == at:
                    if fault == "short" and name == "write":
                        return plain(args[0], memoryview(args[1])[: max(1, len(args[1]) // 2)])
                    if fault == "killed":
                        raise Killed
                    if fault in ("full", "error"):
                        raise OSError(errno.ENOSPC if fault == "full" else errno.EIO, "injected")
                return plain(*args, **options)

            monkeypatch.setattr(os, name, operation)


def save(run, step):
    tensors = {"weight": torch.full((3, 5), float(step)), "bias": torch.arange(7.0)}
    checkpoint.save(
        run, {"step": step}, model=tensors, optimizer={"bias/m": tensors["bias"]}, files={"a.json": b"{}"}
    )
    checkpoint.prune(run, 2)


@pytest.mark.parametrize("fault", ["error", "full", "short", "killed"])
def test_whatever_goes_wrong_the_newest_whole_checkpoint_loads(tmp_path, fault):
    for at in range(1000):
        run = tmp_path / str(at)
        for step in (1, 2):
            save(run, step)
        with pytest.MonkeyPatch.context() as patch:
            faults = Faults(patch, at, fault)
            with suppress(OSError, Killed):
                save(run, 3)
        complaints = []
        found = checkpoint.newest(run, complaints.append)
        assert found.state["step"] in (2, 3)
        assert complaints == []
        assert found.model()["weight"].unique().tolist() == [float(found.state["step"])]
        for pointer in ("latest", "best"):
            assert not (run / pointer).exists() or checkpoint.pointed(run / pointer) is not None
        save(run, 4)  # and leftovers do no harm
        assert checkpoint.newest(run, complaints.append).state["step"] == 4
        assert checkpoint.pointed(run / "latest") == checkpoint.folder_of(run, 4)
        assert [
            folder.name for folder in (run / "checkpoints").iterdir() if folder.suffix == storage.ASIDE
        ] == []
        if faults.count <= at:
            break
    assert at > 20


def events(out, name):
    return [
        row for row in read_rows(out / "metrics.jsonl") if row["kind"] == "event" and row["event"] == name
    ]


def test_a_full_disk_costs_a_checkpoint_and_no_training(train, tmp_path, monkeypatch, capsys):
    full = threading.Event()
    monkeypatch.setattr(storage, "free_bytes", lambda folder: 10 if full.is_set() else 10**12)
    save_one = checkpoint.save

    def filling(run, state, **parts):
        if state["step"] in (4, 6):
            full.set()
        try:
            return save_one(run, state, **parts)
        finally:
            full.clear()

    monkeypatch.setattr(checkpoint, "save", filling)
    facts = train(
        tmp_path / "run", {"train": {"save_every_steps": 2, "keep": 9}, "eval": {"every_steps": 50}}
    )
    assert facts["status"] == "finished"
    steps = [folder.name for folder in sorted((tmp_path / "run" / "checkpoints").iterdir())]
    assert steps == [f"step_{step:08d}" for step in (2, 8, 10, 12)]
    assert [row["step"] for row in events(tmp_path / "run", "save_failed")] == [4, 6]
    said = capsys.readouterr().out
    assert "the checkpoint of step 4 could not be saved" in said
    assert "10 are free" in said


def test_a_last_checkpoint_that_cannot_be_written_is_an_error(train, tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "free_bytes", lambda folder: 10)
    with pytest.raises(
        TrainError, match=r"step 12 could not be saved .* Fix the disk and run the same command again"
    ):
        train(tmp_path / "run", {"eval": {"every_steps": 50}})
    monkeypatch.undo()


def test_what_a_checkpoint_takes_for_granted_is_on_the_disk_before_it(train, tmp_path, monkeypatch):
    """Else a power cut could leave a run that continues after steps missing from its metrics."""
    forced, sync, save_one = [0], MetricsLog.sync, checkpoint.save

    def noted(log):
        sync(log)
        forced.append(log.path.stat().st_size)

    def checked(run, state, **parts):
        rows = (run / "metrics.jsonl").read_bytes()[: forced[-1]].decode().splitlines()
        assert json.loads(rows[-1])["step"] >= state["step"]
        return save_one(run, state, **parts)

    monkeypatch.setattr(MetricsLog, "sync", noted)
    monkeypatch.setattr(checkpoint, "save", checked)
    train(tmp_path / "run", {"train": {"save_every_steps": 5}})
    assert events(tmp_path / "run", "save_failed") == []


def test_training_waits_for_the_copy_only(tmp_path, monkeypatch):
    release, begun = threading.Event(), threading.Event()
    save_one = checkpoint.save

    def slow(*args, **options):
        begun.set()
        assert release.wait(60)
        return save_one(*args, **options)

    monkeypatch.setattr(checkpoint, "save", slow)
    weight = torch.zeros(4)
    with Saver(tmp_path, keep=3, keep_every=None, files={}) as saver:
        saver.start({"step": 1}, model={"weight": weight}, optimizer={})
        assert begun.wait(60)
        assert saver.saved is None
        weight += 1  # the next update must not change what is being saved
        release.set()
        saver.wait()
        assert saver.saved == 1
    assert checkpoint.newest(tmp_path, print).model()["weight"].tolist() == [0, 0, 0, 0]


def test_milestones_stay(train, tmp_path):
    flags = {"train": {"save_every_steps": 1, "keep": 1, "keep_every_steps": 5}, "eval": {"every_steps": 50}}
    train(tmp_path / "run", flags)
    kept = {folder.name for folder in (tmp_path / "run" / "checkpoints").iterdir()}
    assert {"step_00000005", "step_00000010", "step_00000012"} == kept


@pytest.fixture
def small_disk(tmp_path):
    """A real drive of two megabytes, for a few checkpoints of the tiny model."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this user may mount nothing")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("checked", [True, False], ids=["seen before", "seen in writing"])
def test_a_drive_that_is_full(train, small_disk, monkeypatch, checked):
    if not checked:
        monkeypatch.setattr(storage, "free_bytes", lambda folder: 10**12)
    run = small_disk / "run"
    flags = {"train": {"save_every_steps": 2, "keep": 9}, "eval": {"every_steps": 50}}
    with pytest.raises(TrainError, match=r"step 12 could not be saved .* Fix the disk"):
        train(run, flags)
    failed = [row["step"] for row in events(run, "save_failed")]
    saved = checkpoint.newest(run, pytest.fail).state["step"]
    assert failed[-1] == 12
    assert saved == failed[0] - 2
    assert [row["step"] for row in read_rows(run / "metrics.jsonl") if row["kind"] == "step"] == [
        *range(1, 13)
    ]
    for step in range(2, saved, 2):
        shutil.rmtree(checkpoint.folder_of(run, step))
    assert train(run, {**flags, "train": {"keep": 1}})["status"] == "finished"
    assert checkpoint.newest(run, pytest.fail).state["step"] == 12


def test_a_drive_that_is_full_to_the_last_byte_for_a_while(train, small_disk, monkeypatch, capsys):
    """Another program fills the drive and frees it again; neither rows nor training wait."""
    ballast, update = small_disk / "ballast", Updater.update

    def filling(updater, gradient):
        done.append(gradient)
        if len(done) == 3:
            with suppress(OSError), ballast.open("wb", buffering=0) as file:
                while file.write(bytes(1 << 12)):
                    pass
        if len(done) == 50:
            ballast.unlink()
        update(updater, gradient)

    done = []
    monkeypatch.setattr(Updater, "update", filling)
    run = small_disk / "run"
    flags = {"train": {"steps": 60, "save_every_steps": 10, "keep": 1}, "eval": {"every_steps": 99}}
    assert train(run, flags)["status"] == "finished"
    assert [row["step"] for row in read_rows(run / "metrics.jsonl") if row["kind"] == "step"] == [
        *range(1, 61)
    ]
    assert checkpoint.newest(run, pytest.fail).state["step"] == 60
    told = capsys.readouterr().out
    assert "metrics.jsonl cannot be written (No space left on device); training continues" in told
    assert "is written again, including the rows that waited" in told
