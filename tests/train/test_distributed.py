"""Several processes on one machine: the same losses as one process, even if they do not divide the batch."""

import pytest
from real_runs import command, finish_together, rows

STEPS = 20
FLAGS = ("--train.steps", STEPS, "--eval.every-steps", 10)
OPTIMIZERS = {"adamw": ("--optim.lr", "1e-3"), "muon": ("--optim.name", "muon", "--optim.lr", "1e-2")}
SPLIT = [("muon", 2), ("adamw", 3)]


@pytest.fixture(scope="module")
def runs(tiny_recipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("distributed")
    found = {(name, n): folder / f"{name}_{n}" for name, most in SPLIT for n in (1, most)}
    for (name, n), out in found.items():
        finish_together(n, command(tiny_recipe, out, *FLAGS, *OPTIMIZERS[name]))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("split", SPLIT)
def test_losses_are_those_of_one_process(runs, split):
    expected, got = (rows(runs[run], "step") for run in ((split[0], 1), split))
    assert [row["step"] for row in got] == list(range(1, STEPS + 1))
    assert [row["loss"] for row in got] == pytest.approx([row["loss"] for row in expected], rel=1e-5)
    assert [row["grad_norm"] for row in got] == pytest.approx(
        [row["grad_norm"] for row in expected], rel=1e-4
    )


@pytest.mark.slow
@pytest.mark.parametrize("split", SPLIT)
def test_evaluations_are_those_of_one_process(runs, split):
    expected, got = (rows(runs[run], "val") for run in ((split[0], 1), split))
    assert [row["loss"] for row in got] == pytest.approx([row["loss"] for row in expected], rel=1e-5)
    assert [row["bits_per_byte"] for row in got] == pytest.approx(
        [row["bits_per_byte"] for row in expected], rel=1e-5
    )
    # Not the accuracy, as some items have equal endings and rounding decides between them.
    scored = rows(runs[split], "eval")
    assert [row["n"] for row in scored] == [7, 7, 7]
    margins = [row["margin"] for row in rows(runs[split[0], 1], "eval")]
    assert [row["margin"] for row in scored] == pytest.approx(margins, rel=1e-3, abs=1e-5)
