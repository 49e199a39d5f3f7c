"""Two processes and one run folder: the second is refused before it writes anything."""

import json
import signal
import subprocess
import sys
import time

import pytest
from real_runs import command, finish, finish_together, launcher, rows, start

from gptlab.errors import ConfigError, TrainError
from gptlab.machine import lock as locks
from gptlab.runs import folder

LONG = ("--train.steps", 100_000, "--eval.every-steps", 100_000)


def state(out):
    """Everything in a run folder except metrics.jsonl, which the first process keeps writing."""
    files = sorted(file for file in out.rglob("*") if file.is_file() and file.name != "metrics.jsonl")
    return {file: file.read_bytes() for file in files}


@pytest.fixture
def training(tiny_recipe, tmp_path):
    """A run that another process is training; it sleeps meanwhile, as the lock is what is tested."""
    out = tmp_path / "run"
    process = start(command(tiny_recipe, out, *LONG, "--train.save-every-s", "None"))
    until = time.monotonic() + 60
    while not ((out / "metrics.jsonl").is_file() and '"step": 3,' in (out / "metrics.jsonl").read_text()):
        assert time.monotonic() < until, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGSTOP)
    yield out
    process.kill()
    process.communicate()


@pytest.mark.parametrize("words", [(), ("--optim.lr", "1e-5")])
def test_the_second_is_refused_in_one_line_and_writes_nothing(training, tiny_recipe, words):
    before = state(training)
    second = start(command(tiny_recipe, training, *LONG, *words))
    _, said = second.communicate()
    assert second.returncode == 1
    assert said == (
        f"gptlab train: {training}: another process is training this run; wait for it, stop it, or choose "
        "another --out\n"
    )
    assert state(training) == before
    assert not [row for row in rows(training, "event") if row["event"] == "resume"]


def test_what_reads_is_let_in(training, tiny_data, tmp_path):
    finish([sys.executable, "-m", "gptlab", "report", training, "--out", tmp_path / "report"])


def test_the_lock_goes_with_its_process(tiny_recipe, tmp_path):
    out = tmp_path / "run"
    process = start(command(tiny_recipe, out, *LONG, "--train.save-every-steps", 2))
    until = time.monotonic() + 60
    while not (out / "latest").is_file():
        assert time.monotonic() < until, process.communicate()
        time.sleep(0.02)
    process.kill()
    process.communicate()
    again = start(command(tiny_recipe, out, *LONG, "--max-hours", 0))
    _, said = again.communicate()
    assert again.returncode == 75, said
    assert [row["event"] for row in rows(out, "event")] == ["resume", "signal"]


@pytest.mark.slow
def test_the_processes_of_one_launcher_are_one(training, tiny_recipe, tmp_path):
    words = [*launcher(2), *command(tiny_recipe, training, *LONG)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "another process is training this run" in done.stderr
    finish_together(2, command(tiny_recipe, tmp_path / "other", "--train.steps", 4))
    assert len(rows(tmp_path / "other", "step")) == 4


def test_a_start_that_is_refused_leaves_nothing(train, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(ConfigError, match="is longer than"):
        train(out, {"schedule": {"warmup_steps": 50}})
    with pytest.raises(ConfigError, match=r"leave the key out"):
        train(out, {"model": {"vocab_size": 5}})
    assert not out.exists()


def test_a_start_that_is_refused_leaves_the_folder_that_was_there(train, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    with pytest.raises(ConfigError, match="is longer than"):
        train(out, {"schedule": {"warmup_steps": 50}})
    assert list(out.iterdir()) == []


def test_a_record_that_went_between_opening_and_locking_is_another_process(train, tmp_path, monkeypatch):
    def lock(file):
        (tmp_path / "run" / "metrics.jsonl").unlink()  # as a refused start does
        return True

    monkeypatch.setattr(folder, "lock", lock)
    with pytest.raises(TrainError, match="another process"):
        train(tmp_path / "run")


def test_a_drive_without_locks_is_named(train, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(folder, "lock", lambda file: False)
    train(tmp_path / "run", {"train": {"steps": 2}})
    assert "has no file locks; make sure that no other process trains this run" in capsys.readouterr().out


def test_locks(tmp_path, monkeypatch):
    import fcntl

    with (tmp_path / "a").open("ab") as first, (tmp_path / "a").open("ab") as second:
        assert locks.lock(first)
        with pytest.raises(BlockingIOError):
            locks.lock(second)
        first.close()
        assert locks.lock(second, shared=True)

        def none(*_):
            raise OSError("no locks here")

        monkeypatch.setattr(fcntl, "flock", none)
        assert not locks.lock(second)


def test_a_run_that_another_has_just_finished_is_not_begun_again(train, tmp_path):
    train(tmp_path / "run")
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / "metrics.jsonl").touch()  # as if a process was killed at once
    assert train(tmp_path / "again")["status"] == "finished"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "metrics.jsonl").write_text(json.dumps({"kind": "event"}) + "\n")
    with pytest.raises(ConfigError, match="holds files but no run"):
        train(tmp_path / "other")
