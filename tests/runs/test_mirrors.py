import json
import shutil

import pytest

from gptlab.errors import ConfigError
from gptlab.runs import mirrors
from gptlab.runs.metrics import read_rows
from gptlab.runs.mirrors import MIRRORS, MirrorConfig, MirroredRun, Mirrors, scalars


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    for name, value in (
        ("MODE", "offline"),
        ("SILENT", "true"),
        ("CACHE_DIR", tmp_path),
        ("DATA_DIR", tmp_path),
    ):
        monkeypatch.setenv(f"WANDB_{name}", str(value))


def tensorboard_rows(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    return {tag: {e.step: e.value for e in events.Scalars(tag)} for tag in events.Tags()["scalars"]}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_shows_what_the_record_holds(train, tmp_path):
    run = tmp_path / "run"
    flags = {"mirror": {"to": ("tensorboard",)}, "train": {"save_every_steps": 5}}
    assert train(run, flags)["status"] == "finished"
    rows = read_rows(run / "metrics.jsonl")
    shown = tensorboard_rows(run)
    losses = {row["step"]: row["loss"] for row in rows if row["kind"] == "step"}
    assert shown["train/loss"] == pytest.approx(losses)
    assert set(shown["val/loss"]) == {0, 4, 8, 12}
    assert set(shown["continuation/continuation/acc"]) == {0, 4, 8, 12}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_resumed_run_continues_in_tensorboard(train, tmp_path):
    run = tmp_path / "run"
    flags = {"mirror": {"to": ("tensorboard",)}}
    train(run, {**flags, "train": {"steps": 6}})
    for name in ("step_00000006",):  # as if it had crashed two steps after its checkpoint of step 4
        for file in (run / "checkpoints" / name).iterdir():
            file.unlink()
        (run / "checkpoints" / name).rmdir()
    train(run, flags)
    shown = tensorboard_rows(run)["train/loss"]
    losses = {row["step"]: row["loss"] for row in read_rows(run / "metrics.jsonl") if row["kind"] == "step"}
    assert shown == pytest.approx(losses)
    assert list(shown) == list(range(1, 13))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_mirror_that_comes_late_is_shown_the_rows_before(train, tmp_path):
    run = tmp_path / "run"
    train(run, {"train": {"steps": 6}})
    shutil.rmtree(run / "checkpoints" / "step_00000006")  # so its steps 5 and 6 will be taken again
    train(run, {"mirror": {"to": ("tensorboard",)}})
    losses = {row["step"]: row["loss"] for row in read_rows(run / "metrics.jsonl") if row["kind"] == "step"}
    shown = tensorboard_rows(run)
    assert shown["train/loss"] == pytest.approx(losses)
    assert list(shown["train/loss"]) == list(range(1, 13))
    assert set(shown["val/loss"]) == {0, 4, 8, 12}


def test_wandb_is_given_the_same_run_after_a_resume(train, tmp_path, monkeypatch):
    import wandb

    asked, logged = [], []
    init = wandb.init

    def noted(**options):
        asked.append(options)
        run = init(**options)
        log = run.log
        monkeypatch.setattr(run, "log", lambda values: (logged.append(values), log(values)))
        return run

    monkeypatch.setattr(wandb, "init", noted)
    run = tmp_path / "run"
    flags = {"mirror": {"to": ("wandb",), "project": "thesis"}, "eval": {"tasks": ()}}
    train(run, {**flags, "train": {"steps": 4}})
    train(run, {**flags, "train": {"steps": 6}})
    first, second = asked
    assert first["id"] == second["id"]
    assert (second["project"], second["name"], second["resume"]) == ("thesis", "run", "allow")
    assert first["config"]["optim"]["lr"] == 1e-2
    assert [values["step"] for values in logged if "train/loss" in values] == [1, 2, 3, 4, 5, 6]
    assert len(list((run / "wandb").glob("offline-run-*/*.wandb"))) == 2


def test_trackio_shows_what_the_record_holds_and_continues(train, tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "shown"))  # read when trackio is imported, here first
    run = tmp_path / "run"
    flags = {"mirror": {"to": ("trackio",), "project": "thesis"}, "eval": {"tasks": ()}}
    train(run, {**flags, "train": {"steps": 4}})
    train(run, {**flags, "train": {"steps": 6}})
    from trackio.sqlite_storage import SQLiteStorage

    [name] = SQLiteStorage.get_runs("thesis")
    assert name.startswith("run-")
    shown = SQLiteStorage.get_logs("thesis", name)
    losses = {row["step"]: row["train/loss"] for row in shown if "train/loss" in row}
    rows = read_rows(run / "metrics.jsonl")
    assert losses == pytest.approx({row["step"]: row["loss"] for row in rows if row["kind"] == "step"})


class Broken:
    def __init__(self, run):
        self.rows = 0

    def write(self, row):
        self.rows += 1
        if self.rows == 3:
            raise ConnectionError("no route\nto host")

    def close(self):
        raise AssertionError("it was let go")


def test_a_mirror_that_fails_does_not_stop_the_run(train, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(MIRRORS, "wandb", Broken)
    facts = train(tmp_path / "run", {"mirror": {"to": ("wandb",)}})
    assert facts["status"] == "finished"
    said = capsys.readouterr().out
    assert said.count("mirror wandb: ConnectionError: no route to host; the run continues without it") == 1


def test_one_that_cannot_begin_is_let_go(tmp_path):
    def refuse(run):
        raise OSError("no room")

    complaints = []
    told = MirroredRun(tmp_path, 0, {}, "x")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(mirrors.MIRRORS, "wandb", refuse)
        with Mirrors(MirrorConfig(to=("wandb",)), told, complaints.append) as shown:
            shown.write({"kind": "step", "step": 1, "loss": 1.0})
    assert complaints == ["mirror wandb: OSError: no room; the run continues without it"]


def test_a_missing_package_is_said_before_the_start(train, tmp_path, monkeypatch):
    monkeypatch.setattr(mirrors.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ConfigError, match=r'mirror.to = wandb: is not installed; pip install "gptlab\[wandb\]"'
    ):
        train(tmp_path / "run", {"mirror": {"to": ("wandb",)}})
    assert not (tmp_path / "run").exists()


def test_names_of_numbers():
    assert scalars({"kind": "step", "step": 3, "loss": 1.5, "mfu": None, "best": True}) == {"train/loss": 1.5}
    row = {"kind": "eval", "step": 3, "task": "hellaswag", "protocol": "harness", "acc": 0.25, "n": 4}
    assert scalars(row) == {"hellaswag/harness/acc": 0.25, "hellaswag/harness/n": 4}
    assert scalars({"kind": "event", "step": 3, "event": "resume"}) == {}
    assert json.dumps(scalars({"kind": "val", "step": 0, "loss": 2.0})) == '{"val/loss": 2.0}'
