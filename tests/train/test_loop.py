"""The loop: what it writes, what it survives, and that batches of any size give the same run."""

import json
import math
import shutil
import signal
from types import SimpleNamespace

import pytest
import torch

from gptlab import recipe
from gptlab.build import build as wired
from gptlab.data.mixture import Sets
from gptlab.errors import CheckpointError, ConfigError, TrainError
from gptlab.machine.world import World
from gptlab.runs import checkpoint
from gptlab.runs.metrics import read_rows
from gptlab.train import loop, objective
from gptlab.train.interrupt import Interrupt
from gptlab.train.step import Updater


def rows(out, kind):
    return [row for row in read_rows(out / "metrics.jsonl") if row["kind"] == kind]


def losses(out):
    return [row["loss"] for row in rows(out, "step")]


def test_a_run_leaves_what_the_contract_says(train, tmp_path):
    out = tmp_path / "run"
    result = train(out, {"sample": {"prompts": ["The"], "max_tokens": 4}})
    assert (result["status"], result["step"], result["tokens"]) == ("finished", 12, 12 * 256)
    assert [row["step"] for row in rows(out, "val")] == [0, 4, 8, 12]
    assert [row["step"] for row in rows(out, "eval")] == [0, 4, 8, 12]
    assert [row["step"] for row in rows(out, "sample")] == [0, 4, 8, 12]
    fields = {"kind", "step", "tokens", "loss", "grad_norm", "lr", "step_s", "tokens_per_s", "mfu"}
    assert all(row.keys() == fields for row in rows(out, "step"))
    assert {"step", "loss", "bits_per_byte"} <= rows(out, "val")[0].keys()
    assert {"task", "protocol", "shots", "acc", "acc_norm", "stderr", "n"} <= rows(out, "eval")[0].keys()
    best = min((row for row in rows(out, "val") if row["step"]), key=lambda row: row["loss"])
    assert (out / "best").read_text().strip() == f"step_{best['step']:08d}"
    assert (out / "latest").read_text().strip() == "step_00000012"
    assert rows(out, "step")[-1]["loss"] < rows(out, "step")[0]["loss"] - 0.5
    assert abs(rows(out, "step")[0]["loss"] - math.log(257)) < 0.3
    folder = out / "checkpoints" / "step_00000012"
    assert {"model.safetensors", "optimizer.safetensors", "state.json"} <= {f.name for f in folder.iterdir()}
    assert recipe.load([out / "config.toml"]) == recipe.load([out / "config.toml"], {})
    assert json.loads((out / "environment.json").read_text())["gptlab"]


def test_a_finished_run_does_nothing_more(train, tmp_path):
    out = tmp_path / "run"
    train(out)
    before = (out / "metrics.jsonl").read_text()
    assert train(out)["status"] == "finished"
    added = (out / "metrics.jsonl").read_text().removeprefix(before)
    assert [json.loads(line)["event"] for line in added.splitlines()] == ["resume"]


@pytest.mark.parametrize("micro_batch", [1, 3, "auto"])
def test_micro_batches_do_not_matter(train, tmp_path, micro_batch):
    train(tmp_path / "whole", {"train": {"steps": 4, "micro_batch": 8}})
    train(tmp_path / "cut", {"train": {"steps": 4, "micro_batch": micro_batch}})
    assert losses(tmp_path / "cut") == pytest.approx(losses(tmp_path / "whole"), rel=1e-5)


def test_recomputed_activations_change_nothing(train, tmp_path):
    train(tmp_path / "kept", {"train": {"steps": 3}})
    train(tmp_path / "made", {"train": {"steps": 3, "recompute": True}})
    assert losses(tmp_path / "made") == losses(tmp_path / "kept")


@pytest.mark.parametrize("dtype", ["tf32", "bfloat16", "float16"])
def test_number_formats_train_alike(train, tmp_path, dtype):
    train(tmp_path / "float32", {"train": {"steps": 6}})
    train(tmp_path / dtype, {"train": {"steps": 6, "dtype": dtype}})
    skipped = {row["step"] for row in rows(tmp_path / dtype, "event") if row["event"] == "skip"}
    if not skipped:
        assert losses(tmp_path / dtype) == pytest.approx(losses(tmp_path / "float32"), abs=0.05)
    state = json.loads((tmp_path / dtype / "checkpoints" / "step_00000006" / "state.json").read_text())
    assert bool(state["scaler"]) == (dtype == "float16")


@pytest.mark.parametrize(
    ("optimizer", "dtype"),
    [
        *(("adamw", dtype) for dtype in ("tf32", "bfloat16", "float16")),
        *(("muon", dtype) for dtype in ("float32", "bfloat16", "float16")),
    ],
)
def test_every_number_format_continues_exactly(train, tmp_path, optimizer, dtype):
    """As after a kill past the checkpoint of step 5; AdamW's float32 is in test_resume.py."""
    flags = {"optim": {"name": optimizer}, "train": {"dtype": dtype, "save_every_steps": 5, "keep": 9}}
    train(tmp_path / "whole", flags)
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    for later in (8, 10, 12):
        shutil.rmtree(checkpoint.folder_of(tmp_path / "cut", later))
    train(tmp_path / "cut", flags)
    for part in ("model", "optimizer"):
        whole, cut = (
            (checkpoint.folder_of(tmp_path / name, 12) / f"{part}.safetensors").read_bytes()
            for name in ("whole", "cut")
        )
        assert cut == whole
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")


def test_checkpoints_by_the_clock(train, tmp_path, monkeypatch):
    """Every 15 minutes since the last checkpoint; here a step takes seven."""
    clock, update = SimpleNamespace(now=0.0, monotonic=lambda: clock.now), Updater.update

    def slow(self, gradient):
        clock.now += 420
        update(self, gradient)

    monkeypatch.setattr(loop, "time", clock)
    monkeypatch.setattr(Updater, "update", slow)
    train(tmp_path / "run", {"train": {"keep": 20}, "eval": {"every_steps": 5}})
    steps = [checkpoint.step_of(folder) for folder in checkpoint.folders_of(tmp_path / "run")]
    assert steps == [3, 5, 8, 10, 12]


def test_the_last_checkpoints_and_the_best_are_kept(train, tmp_path):
    out = tmp_path / "run"
    train(out, {"train": {"save_every_steps": 1, "keep": 2}})
    kept = {folder.name for folder in (out / "checkpoints").iterdir()}
    assert kept == {"step_00000011", "step_00000012", (out / "best").read_text().strip()}


def test_the_best_is_forgotten_with_its_checkpoint_and_not_before(train, tmp_path):
    kept, lost = tmp_path / "kept", tmp_path / "lost"
    train(kept, {"train": {"steps": 8}})
    path = checkpoint.folder_of(kept, 8) / "state.json"
    state = {**json.loads(path.read_text()), "best": {"step": 4, "loss": 0.01}}
    del state["state_sha256"]
    path.write_text(json.dumps(state))
    shutil.copytree(kept, lost)
    shutil.rmtree(checkpoint.folder_of(lost, 4))
    for out, steps in ((kept, {4}), (lost, {8, 9})):
        best = train(out, {"train": {"steps": 9}})["best"]["step"]
        assert best in steps
        assert checkpoint.pointed(out / "best") == checkpoint.folder_of(out, best)


def build(tiny_recipe, out, flags=None):
    config = recipe.load([tiny_recipe], flags or {})
    sets = Sets(config.data, config.model.context, config.train.seed)
    return wired(config, sets, out, World(0, 1, torch.device("cpu")), Interrupt())


class TooLarge(torch.nn.Module):
    """An objective that runs out of memory above two sequences."""

    def __init__(self, objective):
        super().__init__()
        self.objective = objective

    def forward(self, ids, targets):
        if len(ids) > 2:
            raise torch.OutOfMemoryError("too large")
        return self.objective(ids, targets)


def test_out_of_memory_halves_the_micro_batch_and_says_so(tiny_recipe, tmp_path, torch_settings, capsys):
    trainer = build(tiny_recipe, tmp_path, {"train": {"micro_batch": "auto"}})
    trainer.updater._forward = TooLarge(trainer.updater._forward)
    trainer.updater.prepare(print)
    assert trainer.updater.micro_batches.sequences == 2
    assert "micro_batch is now 2" in capsys.readouterr().out


def test_out_of_memory_names_the_flag(tiny_recipe, tmp_path, torch_settings):
    trainer = build(tiny_recipe, tmp_path, {"train": {"micro_batch": 4}})
    trainer.updater._forward = TooLarge(trainer.updater._forward)
    with pytest.raises(TrainError, match=r"train\.micro_batch = 4"):
        trainer.updater.compute_gradient(0, lambda: False)


def test_updates_that_are_not_finite_are_skipped_then_refused(train, tmp_path, monkeypatch):
    whole = objective.next_token_loss
    monkeypatch.setattr(objective, "next_token_loss", lambda *a, **k: whole(*a, **k) * float("nan"))
    out = tmp_path / "run"
    with pytest.raises(TrainError, match="3 times in a row"):
        train(out, {"guard": {"patience": 3}})
    assert [row["step"] for row in rows(out, "event") if row["event"] == "skip"] == [1, 2, 3]


def test_a_remarkable_rate_is_told_before_the_start(train, tmp_path, capsys):
    train(tmp_path / "run", {"train": {"steps": 2}, "optim": {"lr": 0.1}})
    told = capsys.readouterr().out
    assert "warning: optim.lr = 0.1: models of 34.7k parameters train with" in told
    assert told.index("warning: ") < told.index("step 0 | val")


def test_no_time_means_interrupted_and_then_continued(train, tmp_path):
    out = tmp_path / "run"
    assert train(out, max_hours=0)["status"] == "interrupted"
    assert any(row["event"] == "signal" for row in rows(out, "event"))
    assert train(out)["status"] == "finished"


def test_a_signal_is_noticed_within_a_micro_batch(train, tmp_path, monkeypatch):
    backward, calls = Updater._backward, []

    def counted(*arguments, **options):
        calls.append(arguments)
        if len(calls) == 8 + 3:  # the third of eight in the second step
            signal.raise_signal(signal.SIGUSR1)
        return backward(*arguments, **options)

    monkeypatch.setattr(Updater, "_backward", counted)
    assert train(tmp_path / "run", {"train": {"micro_batch": 1}})["status"] == "interrupted"
    assert len(calls) == 8 + 3
    assert checkpoint.pointed(tmp_path / "run" / "latest") == checkpoint.folder_of(tmp_path / "run", 1)
    [event] = [row for row in rows(tmp_path / "run", "event") if row["event"] == "signal"]
    assert (event["step"], event["reason"]) == (1, "SIGUSR1")


def test_a_line_that_was_being_written_is_written_again(train, tmp_path):
    flags = {"train": {"save_every_steps": 5, "keep": 9}}
    train(tmp_path / "whole", flags)
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    for later in (8, 10, 12):
        shutil.rmtree(checkpoint.folder_of(tmp_path / "cut", later))
    metrics = tmp_path / "cut" / "metrics.jsonl"
    text = metrics.read_text()
    metrics.write_text(text[: text.index('"step": 8,') + 20])
    train(tmp_path / "cut", flags)
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    assert rows(tmp_path / "cut", "val") == rows(tmp_path / "whole", "val")
    written = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [row["step"] for row in written if row["kind"] == "step"] == [
        1,
        2,
        3,
        4,
        5,
        6,
        7,
        6,
        7,
        *range(8, 13),
    ]


def test_a_launcher_does_not_start_again_what_was_asked_to_stop(train, tmp_path, monkeypatch):
    out = tmp_path / "run"
    train(out, max_hours=0)
    before = rows(out, "step")
    with monkeypatch.context() as patch:
        for restarts in ("1", "2"):
            patch.setenv("TORCHELASTIC_RESTART_COUNT", restarts)
            assert train(out)["status"] == "interrupted"
        assert rows(out, "step") == before
    assert train(out)["status"] == "finished"
    assert rows(out, "step")[-1]["step"] == 12
    with monkeypatch.context() as patch:  # a process that died is restarted, whatever it was asked before
        patch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
        assert train(out)["status"] == "finished"


def test_a_damaged_newest_checkpoint_is_named_and_passed_over(train, tmp_path, capsys):
    out = tmp_path / "run"
    train(out, {"train": {"steps": 8}})
    weights = out / "checkpoints" / "step_00000008" / "model.safetensors"
    damaged = bytearray(weights.read_bytes())
    damaged[-1] ^= 1
    weights.write_bytes(damaged)
    capsys.readouterr()
    assert train(out, {"train": {"steps": 8}})["step"] == 8
    told = capsys.readouterr().out
    assert "step_00000008/model.safetensors" in told
    assert "continuing after step 4" in told
    checkpoint.load(out / "checkpoints" / "step_00000008")


def test_a_model_that_cannot_fit_is_refused_before_it_is_made(train, tmp_path):
    with pytest.raises(
        ConfigError, match=r"^model: 281G parameters and tables take 4\.5TB to train, and this cpu"
    ):
        train(tmp_path / "run", {"model": {"vocab_size": 2**24, "n_embd": 2**14}})
    assert not (tmp_path / "run").exists()


def test_all_checkpoints_damaged_is_an_error(train, tmp_path):
    out = tmp_path / "run"
    train(out, {"train": {"steps": 4}})
    for state in out.glob("checkpoints/*/state.json"):
        state.write_text("{")
    with pytest.raises(CheckpointError, match="damaged"):
        train(out, {"train": {"steps": 4}})


def test_another_architecture_is_refused(train, tmp_path):
    out = tmp_path / "run"
    train(out, {"train": {"steps": 4}})
    with pytest.raises(ConfigError, match=r"model\.n_layer = 3"):
        train(out, {"model": {"n_layer": 3}})


def test_a_folder_that_is_no_run_is_refused(train, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError, match="holds files"):
        train(tmp_path)


@pytest.mark.long
@pytest.mark.parametrize(
    ("fast", "bound"),
    [({"compile": True}, 1e-3), ({"compile": True, "dtype": "bfloat16", "residual": "products"}, 0.05)],
)
def test_the_fast_settings_lose_nothing_in_200_steps(train, tmp_path, fast, bound):
    """Training losses, in nats per token, of the same run in plain float32."""
    gentle = {
        "optim": {"lr": 2e-3},
        "schedule": {"warmup_steps": 20},
    }  # else rounding may decide over a cliff
    train(tmp_path / "plain", {"train": {"steps": 200}, **gentle})
    train(tmp_path / "fast", {"train": {"steps": 200, **fast}, **gentle})
    assert losses(tmp_path / "fast") == pytest.approx(losses(tmp_path / "plain"), abs=bound)
