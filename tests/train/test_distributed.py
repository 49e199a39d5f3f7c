"""Several processes on one machine: the same losses as one process, even if they do not divide the batch."""

import pytest
from real_runs import command, finish_together, rows

STEPS = 20
FLAGS = ("--train.steps", STEPS, "--eval.every-steps", 10, "--optim.lr", "1e-3")


@pytest.fixture(scope="module")
def runs(tiny_recipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("distributed")
    for n in (1, 2, 3):
        finish_together(n, command(tiny_recipe, folder / str(n), *FLAGS))
    return {n: folder / str(n) for n in (1, 2, 3)}


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_losses_are_those_of_one_process(runs, processes):
    expected, got = rows(runs[1], "step"), rows(runs[processes], "step")
    assert [row["step"] for row in got] == list(range(1, STEPS + 1))
    assert [row["loss"] for row in got] == pytest.approx([row["loss"] for row in expected], rel=1e-5)
    assert [row["grad_norm"] for row in got] == pytest.approx(
        [row["grad_norm"] for row in expected], rel=1e-4
    )


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_evaluations_are_those_of_one_process(runs, processes):
    expected, got = rows(runs[1], "val"), rows(runs[processes], "val")
    assert [row["loss"] for row in got] == pytest.approx([row["loss"] for row in expected], rel=1e-5)
    assert [row["bits_per_byte"] for row in got] == pytest.approx(
        [row["bits_per_byte"] for row in expected], rel=1e-5
    )
    # Not the accuracy, as some items have equal endings and rounding decides between them.
    scored = rows(runs[processes], "eval")
    assert [row["n"] for row in scored] == [7, 7, 7]
    margins = [row["margin"] for row in rows(runs[1], "eval")]
    assert [row["margin"] for row in scored] == pytest.approx(margins, rel=1e-3, abs=1e-5)
