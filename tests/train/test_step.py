"""The passes of a step: one shape for all, trial passes, and DDP."""

import json
import os
import subprocess
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from real_runs import command, finish, launcher, rows
from test_loop import build
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from gptlab import cli, recipe
from gptlab.build import attention_kernel
from gptlab.errors import TrainError
from gptlab.machine import device
from gptlab.machine.memory import ran_out
from gptlab.machine.world import World
from gptlab.model.gpt import GPT, ModelConfig, run_block
from gptlab.model.position import POSITIONS
from gptlab.train import probe
from gptlab.train.objective import Objective
from gptlab.train.probe import Probe
from gptlab.train.step import Updater


class Shapes(nn.Module):
    """An objective that records the shapes of its inputs, and raises given errors."""

    def __init__(self, objective, *errors):
        super().__init__()
        self.objective, self.errors, self.seen = objective, list(errors), []

    def forward(self, ids, targets):
        self.seen.append((tuple(ids.shape), int((targets >= 0).any(-1).sum())))
        if self.errors:
            raise self.errors.pop(0)
        return self.objective(ids, targets)


def watched(tiny_recipe, out, flags, *errors):
    updater = build(tiny_recipe, out, {"train": flags}).updater
    updater._forward = Shapes(updater._forward, *errors)
    return updater


def test_every_pass_has_one_shape(tiny_recipe, tmp_path, torch_settings):
    whole, cut = (watched(tiny_recipe, tmp_path, {"micro_batch": size}) for size in (8, 3))
    expected, found = (updater.compute_gradient(0, lambda: False) for updater in (whole, cut))
    assert whole._forward.seen == [((8, 32), 8)]
    assert cut._forward.seen == [((3, 32), 3), ((3, 32), 3), ((3, 32), 2)]
    assert found.loss == pytest.approx(expected.loss, rel=1e-6)
    assert found.norm == pytest.approx(expected.norm, rel=1e-5)


def test_more_than_a_share_at_once_is_a_share(tiny_recipe, tmp_path, torch_settings):
    assert build(tiny_recipe, tmp_path, {"train": {"micro_batch": 100}}).updater.micro_batches.sequences == 8


@pytest.mark.parametrize("processes", [1, 3, 5, 6])
@pytest.mark.parametrize("micro_batch", [1, 2, 4])
def test_processes_make_equal_numbers_of_passes_over_all_samples(
    tiny_recipe, tmp_path, torch_settings, monkeypatch, processes, micro_batch
):
    parts = build(tiny_recipe, tmp_path, {"train": {"micro_batch": micro_batch}})
    passes = []
    for rank in range(processes):
        one = World(rank, processes, torch.device("cpu"))
        updater = Updater(
            replace(parts.state, world=one), Objective(parts.state.model), parts.config, "float32"
        )
        passes.append(list(updater.micro_batches._in_batch()))
    assert len({len(own) for own in passes}) == 1
    samples = [start + place for own in passes for start, size in own for place in range(size)]
    assert samples == list(range(8))


def test_a_compiler_that_fails_is_done_without(tiny_recipe, tmp_path, torch_settings):
    said = []
    updater = watched(tiny_recipe, tmp_path, {"compile": True}, RuntimeError("no\n compiler Set TORCH_LOGS"))
    updater.prepare(said.append)
    assert said == [
        "torch.compile fails here (RuntimeError: no compiler); training continues without it, but slower"
    ]
    assert updater._objective.compiled_as == "nothing"
    assert updater._forward.seen == [((8, 32), 8)] * 2
    assert all(parameter.grad is None for parameter in updater.state.model.parameters())


def test_what_fails_without_a_compiler_too_is_raised(tiny_recipe, tmp_path, torch_settings):
    updater = watched(tiny_recipe, tmp_path, {"compile": True}, RuntimeError("one"), RuntimeError("two"))
    with pytest.raises(RuntimeError, match="two"):
        updater.prepare(print)


def test_memory_that_runs_out_inside_the_compiler_is_no_failure_of_it(tiny_recipe, tmp_path, torch_settings):
    said, wrapped = [], RuntimeError("backend raised")
    wrapped.__cause__ = torch.OutOfMemoryError("full")
    assert ran_out(wrapped)
    updater = watched(tiny_recipe, tmp_path, {"compile": True}, wrapped, RuntimeError("no compiler"))
    updater.prepare(said.append)
    assert said[0] == "out of memory with 8 sequences at once: micro_batch is now 4"
    assert said[1].startswith("torch.compile fails here")
    assert updater._forward.seen == [((8, 32), 8), ((4, 32), 4), ((4, 32), 4)]


def test_a_graph_is_forgotten_before_another_size_is_tried(
    tiny_recipe, tmp_path, torch_settings, monkeypatch
):
    resets = []
    monkeypatch.setattr(torch.compiler, "reset", lambda: resets.append(1))
    full = torch.OutOfMemoryError("full")
    updater = watched(tiny_recipe, tmp_path, {"compile": True}, full, full, RuntimeError("none"))
    updater.prepare(print)
    assert len(resets) == 3
    plainly = watched(tiny_recipe, tmp_path, {}, full)
    plainly.prepare(print)
    assert len(resets) == 3


def test_a_size_that_was_found_before_is_kept(tiny_recipe, tmp_path, torch_settings, monkeypatch):
    """On a GPU memory is measured once per run; a resumed run keeps its size."""
    monkeypatch.setattr(Probe, "_estimate", lambda self, coming: pytest.fail("asked again"))
    updater = watched(tiny_recipe, tmp_path, {})
    updater.probe.settle(2)
    cuda = World(0, 1, torch.device("cuda"))
    monkeypatch.setattr(Probe, "_failure", lambda self: None)
    monkeypatch.setattr(torch, "empty", lambda *a, **k: None)
    monkeypatch.setattr(updater.probe, "_world", cuda)
    updater.prepare(print)
    assert updater.micro_batches.sequences == 2


def test_a_gpus_memory_is_estimated_with_the_optimizer_to_come(
    tiny_recipe, tmp_path, torch_settings, monkeypatch
):
    trainer = build(tiny_recipe, tmp_path, {"train": {"compile": True}})
    updater, asked, said = trainer.updater, [], []
    weights = 4 * sum(parameter.numel() for parameter in trainer.state.model.parameters())

    def peak(device, work, size):
        asked.append((size, updater._objective.compiled_as))
        return 1000 + 100 * size

    monkeypatch.setattr(probe, "peak_bytes", peak)
    monkeypatch.setattr(probe, "free_gpu_bytes", lambda device: (2 * weights + 1000 + 100 * 3) / 0.9 + 1)
    monkeypatch.setattr(Probe, "_failure", lambda self: None)
    monkeypatch.setattr(updater.probe, "_world", World(0, 1, torch.device("cuda")))
    monkeypatch.setattr(torch, "empty", lambda size, **k: asked.append(size))
    updater.prepare(said.append)
    assert asked == [(8, "nothing"), (16, "nothing"), 2 * weights]
    assert (updater.micro_batches.sequences, updater._objective.compiled_as) == (2, "whole")
    assert said[0] == "memory holds 2 sequences at once, estimated from a pass over a few"
    assert said[1].startswith("compiled in ")


def test_memory_that_runs_out_in_the_first_update_is_named(
    tiny_recipe, tmp_path, torch_settings, monkeypatch
):
    updater = build(tiny_recipe, tmp_path).updater
    found = updater.compute_gradient(0, lambda: False)

    def full(*_, **__):
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(updater.state.optimizer, "step", full)
    with pytest.raises(TrainError, match=r"out of memory with train\.micro_batch = 8"):
        updater.update(found)


@pytest.mark.slow
def test_without_a_cpp_compiler_training_says_so_and_goes_on(tiny_recipe, tmp_path):
    env = {**os.environ, "CXX": str(tmp_path / "none"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    words = command(tiny_recipe, tmp_path / "run", "--train.compile", "True", "--train.steps", 2)
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = [line for line in done.stdout.splitlines() if line.startswith("torch.compile fails here")]
    assert len(told) == 1
    assert "continues without it" in told[0]
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.slow
def test_unequal_shares_compiled_are_those_of_one_process(tiny_recipe, tmp_path):
    """Two processes hold 2 and 3 of 5 sequences; each compiles a block and the loss once."""
    flags = ("--train.batch-tokens", 5 * 32, "--train.steps", 6, "--eval.every-steps", 6)
    finish(command(tiny_recipe, tmp_path / "one", *flags))
    compiled = ("--train.compile", "True", "--train.micro-batch", 2)
    words = [*launcher(2), *command(tiny_recipe, tmp_path / "two", *flags, *compiled)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_LOGS": "recompiles"}
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Recompiling" not in done.stderr
    expected, got = (rows(tmp_path / name, "step") for name in ("one", "two"))
    assert [row["loss"] for row in got] == pytest.approx([row["loss"] for row in expected], rel=1e-5)
    assert "torch.compile fails" not in done.stdout


def test_ddp_sends_the_last_blocks_gradients_before_the_first_blocks_are_computed(tmp_path):
    torch.manual_seed(0)
    model = GPT(ModelConfig(n_layer=4, n_head=2, n_embd=32, context=16, vocab_size=61, tie_embeddings=False))
    events = []

    def noted(block, x, *rest):
        y = run_block(block, x, *rest)
        if block is model.blocks[0]:
            y.register_hook(lambda gradient: events.append("first block"))
        return y

    def sent(state, bucket):
        events.append("sent")
        future = torch.futures.Future()
        future.set_result(bucket.buffer())
        return future

    objective = Objective(model)
    objective._run = noted
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        parallel = DistributedDataParallel(objective, bucket_cap_mb=0.01)
        parallel.register_comm_hook(None, sent)
        ids = torch.randint(61, (2, 16))
        for _ in range(2):  # the buckets are rebuilt after the first
            events.clear()
            parallel(ids, ids).backward()
    finally:
        dist.destroy_process_group()
    assert events.index("first block") >= 3


@pytest.mark.parametrize("deterministic", [True, False])
def test_the_compiler_is_deterministic_with_the_kernels(torch_settings, deterministic):
    import torch._inductor.config as inductor

    device.set_deterministic(deterministic, compiled=True)
    assert inductor.deterministic is deterministic


def test_the_residual_stream_in_the_format_of_the_products(tiny_recipe, tmp_path, torch_settings):
    seen, losses = {}, {}
    for residual in ("float32", "products"):
        trainer = build(tiny_recipe, tmp_path, {"train": {"dtype": "bfloat16", "residual": residual}})
        first = trainer.state.model.blocks[0]
        first.register_forward_hook(
            lambda block, given, y, name=residual: seen.update({name: (given[0].dtype, y.dtype)})
        )
        losses[residual] = trainer.updater.compute_gradient(0, lambda: False)
    assert seen == {"float32": (torch.float32,) * 2, "products": (torch.bfloat16,) * 2}
    assert losses["products"].loss == pytest.approx(losses["float32"].loss, rel=1e-3)
    assert losses["products"].norm == pytest.approx(losses["float32"].norm, rel=2e-2)
    # Without autocast, as in samples in float32, there is no such format.
    trainer.state.model(torch.zeros(1, 4, dtype=torch.long))
    assert seen["products"] == (torch.float32,) * 2


def test_recomputed_blocks_attend_by_the_same_kernel(tiny_recipe, tmp_path, torch_settings):
    """The backward pass chooses a kernel again; another one would save other tensors."""
    found = {}
    for recompute in (False, True):
        flags = {"attention_kernel": "math", "recompute": recompute}
        updater = build(tiny_recipe, tmp_path, {"train": flags}).updater
        found[recompute] = updater.compute_gradient(0, lambda: False)
    assert found[True] == found[False]


def test_where_one_process_fails_at_first_no_other_waits_for_it(
    tiny_recipe, tmp_path, torch_settings, monkeypatch
):
    updater = watched(tiny_recipe, tmp_path, {})
    several = SimpleNamespace(size=2, device=torch.device("cpu"), count=lambda *facts: [1])
    monkeypatch.setattr(updater.probe, "_world", several)
    with pytest.raises(TrainError, match="another process failed in its first pass"):
        updater.prepare(print)


def test_where_one_has_no_compiler_all_try_without(tiny_recipe, tmp_path, torch_settings, monkeypatch):
    updater = build(tiny_recipe, tmp_path, {"train": {"compile": True}}).updater
    tried = []
    monkeypatch.setattr(Probe, "_failure", lambda self: tried.append(self._objective.compiled_as))
    counts = iter([[0], [1]])  # none failed; one of two is compiled
    several = SimpleNamespace(
        size=2, device=torch.device("cpu"), count=lambda *facts: next(counts), gather=lambda rows: rows
    )
    monkeypatch.setattr(updater.probe, "_world", several)
    updater.prepare(print)
    assert tried == ["whole", "nothing"]


@pytest.mark.parametrize("position", POSITIONS)
def test_the_kernel_must_take_a_mask_where_positions_bias_the_scores(position, tiny_recipe, monkeypatch):
    config, asked = recipe.load([tiny_recipe], {"model": {"position": position}}), []
    monkeypatch.setattr("gptlab.model.kernels.choose", lambda *what: asked.append(what[3]) or "efficient")
    attention_kernel(config, torch.device("cpu"))
    assert asked == [POSITIONS[position](8, 8, 4, theta=1e4).bias(0, 2) is not None]


@pytest.mark.parametrize(("kernel", "code"), [("cudnn", 1), ("math", 0), ("auto", 0)])
def test_the_kernel_of_attention_is_told_or_refused(
    tiny_recipe, tmp_path, torch_settings, capsys, kernel, code
):
    out = tmp_path / "run"
    words = ["train", tiny_recipe, "--out", out, "--train.attention-kernel", kernel, "--train.steps", 2]
    assert cli.main(list(map(str, words))) == code
    done = capsys.readouterr()
    if code:
        assert "train.attention_kernel = cudnn: torch" in done.err
        assert len(done.err.splitlines()) == 1
        assert not out.exists()
        return
    name = "flash" if kernel == "auto" else kernel
    assert f"{name} attention" in done.out
    assert json.loads((out / "environment.json").read_text())["attention_kernel"] == name
