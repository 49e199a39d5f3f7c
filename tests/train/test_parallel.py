"""What several processes share changes nothing but who holds what."""

import json
import runpy
import shutil
import sys
from pathlib import Path

import forked
import pytest
import torch
from real_runs import command, finish_together, hashes, record, rows
from test_loop import build
from torch import nn

from gptlab import cli, recipe
from gptlab.build import build_parallel
from gptlab.errors import ConfigError
from gptlab.machine.world import World
from gptlab.model.gpt import GPT, ModelConfig
from gptlab.model.roles import role
from gptlab.model.unset import ShapesOnly
from gptlab.runs import checkpoint
from gptlab.runs.scattered import Link, Scattered, Span
from gptlab.runs.tensor_file import load_tensors, pieces
from gptlab.train.flat import FlatBuffer, contiguous_layout, per_owner_layout
from gptlab.train.objective import Objective
from gptlab.train.parallel import PARALLEL
from gptlab.train.parallel import rows as sharded_rows
from gptlab.train.saver import Saver

FLAGS = ("--train.batch-tokens", 192, "--train.micro-batch", 1, "--train.deterministic", True)
RATES = {"adamw": ("--optim.lr", "1e-3"), "muon": ("--optim.name", "muon", "--optim.lr", "1e-2")}


def run(recipe, out, kind, processes, *flags):
    words = command(recipe, out, *FLAGS, "--train.parallel", kind, *flags)
    finish_together(processes, words)
    return out


@pytest.fixture(scope="module")
def ran(tiny_recipe, tmp_path_factory):
    """Return the folder of a run of 50 steps, made once."""
    folder, made = tmp_path_factory.mktemp("kinds"), {}

    def get(kind, optimizer, processes):
        key = kind, optimizer, processes
        if key not in made:
            flags = "--train.steps", 50, "--eval.every-steps", 25, *RATES[optimizer]
            made[key] = run(tiny_recipe, folder / "_".join(map(str, key)), kind, processes, *flags)
        return made[key]

    return get


@pytest.mark.slow
@pytest.mark.parametrize(("optimizer", "processes"), [("adamw", 2), ("adamw", 3), ("muon", 3)])
def test_zero1_is_ddp_bit_for_bit(ran, optimizer, processes):
    expected, found = (ran(kind, optimizer, processes) for kind in ("ddp", "zero1"))
    assert hashes(found) == hashes(expected)
    assert record(found) == record(expected)


@pytest.mark.slow
@pytest.mark.parametrize(("optimizer", "processes"), [("adamw", 2), ("muon", 3)])
def test_fsdp_has_the_losses_of_ddp(ran, optimizer, processes):
    expected, found = (rows(ran(kind, optimizer, processes), "step") for kind in ("ddp", "fsdp"))
    for key in ("loss", "grad_norm"):
        assert [row[key] for row in found] == pytest.approx([row[key] for row in expected], rel=1e-5)
    expected, found = (rows(ran(kind, optimizer, processes), "val") for kind in ("ddp", "fsdp"))
    assert [row["loss"] for row in found] == pytest.approx([row["loss"] for row in expected], rel=1e-5)


CONSTANT = ("--train.average", 0.9, "--schedule.name", "constant")


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", RATES)
def test_a_run_changes_its_kind_and_its_processes(tiny_recipe, tmp_path, optimizer):
    def go(out, kind, processes, steps):
        return run(tiny_recipe, out, kind, processes, "--train.steps", steps, *CONSTANT, *RATES[optimizer])

    whole, changed = go(tmp_path / "whole", "ddp", 1, 12), tmp_path / "changed"
    for kind, processes, steps in (("zero1", 3, 4), ("ddp", 1, 6), ("fsdp", 2, 9), ("zero1", 2, 12)):
        go(changed, kind, processes, steps)
    expected, found = (rows(out, "step") for out in (whole, changed))
    assert [row["loss"] for row in found] == pytest.approx([row["loss"] for row in expected], rel=1e-5)
    for name in ("model", "optimizer"):
        one, other = (
            load_tensors(checkpoint.folder_of(out, 12) / f"{name}.safetensors") for out in (whole, changed)
        )
        assert one.keys() == other.keys()
        assert all(torch.allclose(one[key], other[key], rtol=1e-3, atol=1e-5) for key in one)


@pytest.mark.long  # compiling
def test_fsdp_compiled_and_recomputed(ran, tiny_recipe, tmp_path):
    flags = (
        "--train.steps",
        50,
        "--eval.every-steps",
        50,
        "--train.compile",
        True,
        "--train.recompute",
        True,
    )
    found = rows(run(tiny_recipe, tmp_path / "run", "fsdp", 2, *flags, *RATES["adamw"]), "step")
    losses = [row["loss"] for row in rows(ran("ddp", "adamw", 2), "step")]
    assert [row["loss"] for row in found] == pytest.approx(losses, rel=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", PARALLEL)
def test_two_gpus(tiny_recipe, tmp_path, kind):
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA devices")
    flags = (
        "--train.steps",
        12,
        "--train.device",
        "cuda",
        "--train.dtype",
        "float32",
        "--train.micro-batch",
        3,
    )
    expected = run(tiny_recipe, tmp_path / "one", "ddp", 1, *flags)
    found = run(tiny_recipe, tmp_path / kind, kind, 2, *flags)
    losses = [[row["loss"] for row in rows(out, "step")] for out in (expected, found)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["zero1", "fsdp"])
def test_gradients_summed_in_bfloat16_are_a_little_coarser(ran, tiny_recipe, tmp_path, kind):
    flags = ("--train.steps", 50, "--eval.every-steps", 50, "--train.reduce-dtype", "bfloat16")
    found = rows(run(tiny_recipe, tmp_path / kind, kind, 2, *flags, *RATES["adamw"]), "step")
    expected = rows(ran("ddp", "adamw", 2), "step")
    losses = [row["loss"] for row in expected]
    assert [row["loss"] for row in found] == pytest.approx(losses, rel=5e-3)
    assert [row["grad_norm"] for row in found][1:] != [row["grad_norm"] for row in expected][1:]


@pytest.mark.parametrize("processes", [2, 3, 8])
def test_a_process_holds_its_share_of_adamws_state(processes):
    with ShapesOnly():
        model = GPT(ModelConfig())
    parameters = dict(model.named_parameters())
    total = sum(p.numel() for p in parameters.values())
    layout = contiguous_layout(parameters, processes)
    assert layout.stretch <= 1.05 / processes * total
    rows = [sharded_rows(p.shape, processes) for p in parameters.values()]
    for rank in range(processes):
        held = sum(span.stop - span.start for spans in rows for span in spans if span.rank == rank)
        assert held <= 1.1 / processes * total


def measure(words):
    """Measure what one of several processes holds, as benchmarks/parallel.py does."""
    benchmarks = Path(__file__).parents[2] / "benchmarks"
    sys.path.append(str(benchmarks))  # as Python does for a file that lies there
    script = runpy.run_path(str(benchmarks / "parallel.py"))
    Path(words[1]).write_text(json.dumps(script["memory"]("tiny", words[0], "cpu")))


@pytest.mark.slow
@pytest.mark.parametrize("kind", PARALLEL)
def test_a_process_holds_what_the_formula_says(tmp_path, kind):
    world = {"WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": forked.free_port()}
    files = [tmp_path / f"{rank}.json" for rank in range(2)]
    running = [
        forked.Forked([kind, file], {**world, "RANK": rank, "LOCAL_RANK": rank}, main=measure)
        for rank, file in enumerate(files)
    ]
    for process in running:
        _, said = process.communicate()
        assert process.returncode == 0, said
    for found in (json.loads(file.read_text()) for file in files):
        assert found["held"] == pytest.approx(found["formula"], rel=0.02)


@pytest.mark.parametrize("processes", [2, 3, 8])
def test_matrices_are_dealt_by_cost(processes):
    with ShapesOnly():
        model = GPT(ModelConfig())
    matrices = {name: p for name, p in model.named_parameters() if role(name).kind == "matrix"}
    layout = per_owner_layout(matrices, processes)
    costs = [0] * processes
    for name, matrix in matrices.items():
        rank, first = divmod(layout.starts[name], layout.stretch)
        assert first + matrix.numel() <= layout.stretch
        costs[rank] += matrix.numel() * min(matrix.shape)
    assert max(costs) <= 1.1 * sum(costs) / processes


def test_no_two_parameters_share_a_place_in_the_buffer():
    parameters = {
        name: nn.Parameter(torch.randn(count)) for name, count in {"a": 70, "b": 1, "c": 200}.items()
    }
    before = {name: p.detach().clone() for name, p in parameters.items()}
    flats = [
        FlatBuffer(parameters, contiguous_layout(parameters, 3), World(rank, 3, torch.device("cpu")))
        for rank in range(3)
    ]
    assert all(torch.equal(p, before[name]) for name, p in parameters.items())
    for name, p in parameters.items():
        spans = flats[0].spans[name]
        assert [span.start for span in spans] == [0, *(span.stop for span in spans[:-1])]
        assert spans[-1].stop == p.numel()
        parts = [one.parts[name] for one in flats if name in one.parts]
        assert torch.equal(torch.cat([part.reshape(-1) for part in parts]), before[name])


class Wire(Link):
    """A link to a process whose numbers are known."""

    def __init__(self, theirs):
        super().__init__(0)
        self.theirs = theirs

    def receive(self, count, dtype, rank):
        self._received += 1
        piece, self.theirs = self.theirs[:count], self.theirs[count:]
        return piece


def test_a_file_is_the_same_whoever_holds_its_numbers(monkeypatch):
    monkeypatch.setattr("gptlab.runs.scattered.PIECE", 3)
    numbers = torch.arange(20.0)
    spans = (Span(1, 0, 8), Span(0, 8, 20))
    held = Scattered(torch.Size((4, 5)), spans, numbers[8:], Wire(numbers[:8]))
    other = torch.ones(2, dtype=torch.int64)
    expected = b"".join(pieces({"a": numbers.view(4, 5), "b": other}))
    assert b"".join(pieces({"a": held, "b": other})) == expected


def test_what_is_to_come_after_a_failure_is_received_and_dropped(monkeypatch):
    monkeypatch.setattr("gptlab.runs.scattered.PIECE", 3)
    wire = Wire(torch.arange(14.0))
    spans = (Span(1, 0, 7), Span(0, 7, 9))
    tensors = [Scattered(torch.Size((9,)), spans, torch.zeros(2), wire) for _ in range(2)]
    wire.begin()
    next(tensors[0].stream())
    wire.drain(tensors)
    assert len(wire.theirs) == 0


def test_after_a_failed_save_all_processes_know_and_the_next_one_works(tmp_path, monkeypatch):
    numbers = torch.arange(8.0)
    wire = Wire(numbers.repeat(2))
    held = Scattered(torch.Size((10,)), (Span(0, 0, 2), Span(1, 2, 10)), torch.zeros(2), wire)
    told, write = [], checkpoint.save
    monkeypatch.setattr(wire, "broadcast_outcome", lambda outcome: told.append(outcome) or outcome)
    with Saver(tmp_path, keep=3, keep_every=None, files={}, link=wire) as saver:
        monkeypatch.setattr(checkpoint, "save", full)
        saver.start({"step": 1}, model={}, optimizer={"a/b": held})
        saver.wait()
        assert (told, saver.saved) == ([False], None)
        monkeypatch.setattr(checkpoint, "save", write)
        saver.start({"step": 2}, model={}, optimizer={"a/b": held})
        saver.wait()
    assert (told, saver.saved) == ([False, True], 2)
    (found,) = load_tensors(checkpoint.folder_of(tmp_path, 2) / "optimizer.safetensors").values()
    assert torch.equal(found, torch.cat((torch.zeros(2), numbers)))


def full(*_, **__):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize(
    ("device", "flags", "complaint"),
    [
        ("cpu", {"dtype": "float16", "micro_batch": 1}, "no common loss scale for float16"),
        ("cuda", {"dtype": "float32", "micro_batch": "auto"}, "fsdp cannot find out what fits"),
    ],
)
def test_fsdp_refuses_what_it_cannot(tiny_recipe, device, flags, complaint):
    config = recipe.load([tiny_recipe], {"train": {"parallel": "fsdp", **flags}})
    world = World(0, 2, torch.device(device))
    with pytest.raises(ConfigError, match=complaint):
        build_parallel(Objective(GPT(config.model)), config, world)


@pytest.mark.parametrize("together", [True, False])
def test_no_process_tries_a_pass_that_all_must_make(tiny_recipe, tmp_path, monkeypatch, together):
    updater, tried = build(tiny_recipe, tmp_path, {"train": {"micro_batch": "auto"}}).updater, []
    monkeypatch.setattr(updater.probe, "run", tried.append)
    monkeypatch.setattr(updater.state.parallel, "synchronises_every_pass", together)
    updater.prepare(print)
    assert len(tried) == (not together)


@pytest.mark.slow
def test_a_checkpoint_that_does_not_fit_ends_all_processes(ran, tiny_recipe, tmp_path):
    out = shutil.copytree(ran("zero1", "adamw", 2), tmp_path / "run")
    words = command(
        tiny_recipe, out, *FLAGS, "--train.parallel", "zero1", "--train.steps", 60, *RATES["muon"]
    )
    world = {"WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": forked.free_port()}
    running = [forked.Forked(words[3:], {**world, "RANK": rank, "LOCAL_RANK": rank}) for rank in range(2)]
    ends = [process.communicate(timeout=60)[1] for process in running]
    assert [process.returncode for process in running] == [1, 1]
    assert any("keep optim.name" in said for said in ends)


def test_one_process_says_that_it_shares_nothing(tiny_recipe, tmp_path, capsys, torch_settings):
    words = [tiny_recipe, "--out", tmp_path / "run", "--train.parallel", "zero1", "--train.steps", 2]
    assert cli.main(["train", *map(str, words)]) == 0
    assert "parallel: zero1 shares among several processes; this one is alone" in capsys.readouterr().out
