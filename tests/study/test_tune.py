"""The search for a learning rate: the parabola against simulations, and the command as a user types it."""

import json
import re

import numpy as np
import pytest

from gptlab import recipe
from gptlab.cli import main
from gptlab.study.tune import carried, minimum, optimum
from gptlab.train.muon import MuonConfig
from gptlab.train.optim import at_rate

RATES = [1e-3 * 1.4**power for power in (-2, -1, 0, 1, 2)]


def losses(bottom, noise=0.0, seed=0):
    draw = np.random.default_rng(seed).normal(0, noise, len(RATES)) if noise else np.zeros(len(RATES))
    return [
        (rate, 3 + 0.1 * np.log(rate / bottom) ** 2 + extra) for rate, extra in zip(RATES, draw, strict=True)
    ]


def rows(points):
    return [{"rate": rate, "loss": loss} for rate, loss in points]


def test_the_bottom_of_a_parabola():
    found = minimum(losses(1.1e-3), 2)
    assert found.rate == pytest.approx(1.1e-3)
    assert found.low == pytest.approx(found.high)


def test_its_error_is_that_of_simulations():
    """With two degrees of freedom, a t interval of one standard error holds the truth 57.7 % of the time."""
    held, bottoms = [], []
    for seed in range(2000):
        found = minimum(losses(1.1e-3, noise=0.003, seed=seed), 2)
        held.append(found.low <= 1.1e-3 <= found.high)
        bottoms.append(found.rate)
    assert np.mean(held) == pytest.approx(0.577, abs=0.04)
    assert np.median(bottoms) == pytest.approx(1.1e-3, rel=0.01)


def test_points_too_far_off_are_left_out():
    points = [(rate, loss + (5 if rate < 4e-4 else 0)) for rate, loss in [(1e-4, 3.0), *losses(1.1e-3)]]
    assert minimum(points, 3).rate == pytest.approx(1.1e-3)


def test_three_points_bracket_the_bottom_and_tell_no_error():
    found = minimum(losses(1.2e-3)[1:4], 1)
    assert (found.rate, found.low, found.high) == (pytest.approx(1.2e-3), RATES[1], RATES[3])


@pytest.mark.parametrize(("bottom", "edge"), [(1e-5, "lowest"), (1.0, "highest"), (1e-3, None)])
def test_a_best_rate_at_the_edge_is_told_and_has_no_minimum(bottom, edge):
    found = optimum(rows(losses(bottom)))
    assert found["edge"] == edge
    assert (found["minimum"] is None) == (edge is not None)


def test_runs_that_diverged_count_as_tried():
    points = losses(1e-3)
    found = optimum([*rows(points[:3]), *({"rate": rate, "loss": None} for rate, _ in points[3:])])
    assert (found["rate"], found["edge"], found["minimum"]) == (1e-3, None, None)


def test_other_groups_keep_their_ratio():
    config = MuonConfig(lr=0.02, embedding_lr=0.01, head_lr=0.004, vector_lr=0.008)
    expected = {"lr": 0.05, "embedding_lr": 0.025, "head_lr": 0.01, "vector_lr": 0.02}
    assert at_rate(config, 0.05) == pytest.approx(expected)


@pytest.mark.parametrize(("name", "factor"), [("adamw", 0.5 * 4**-0.32), ("muon", 4**-0.32)])
def test_a_rate_carried_to_twice_the_width_and_four_times_the_tokens(name, factor):
    base = {"model": {"n_embd": 64, "n_head": 4}, "train": {"steps": 100}, "optim": {"name": name}}
    wide = recipe.merge(base, {"model": {"n_embd": 128}, "train": {"steps": 400}})
    small, larger = recipe.resolve([base]), recipe.resolve([wide])
    tokens = 100 * small.train.batch_tokens
    found, said = carried(1e-2, small, tokens, larger)
    assert found == pytest.approx(1e-2 * factor)
    assert said == f"carried to 128 channels and 400 steps of 524,288 tokens: about {found:.2g} (estimated)"


@pytest.mark.parametrize(
    ("other", "why"),
    [
        ({"optim": {"name": "muon"}}, "its optimizer is muon, not adamw"),
        ({"train": {"batch_tokens": 1024}}, "its batches have 1,024 tokens, not 524,288"),
        ({"train": {"hours": 2.0}}, "its length is in hours"),
        ({"train": {"steps": 10_000}}, "it is 100 times as long as these runs"),
    ],
)
def test_a_rate_is_not_carried_beyond_its_rules(other, why):
    small, larger = (recipe.resolve([{"train": {"steps": 100}}, layer]) for layer in ({}, other))
    if "hours" in other.get("train", {}):
        larger = recipe.resolve([other])
    found, said = carried(1e-3, small, 100 * small.train.batch_tokens, larger)
    assert found is None
    assert said.startswith(f"not carried to that recipe: {why}")


@pytest.mark.slow
@pytest.mark.usefixtures("forked_runs")
def test_the_command_finds_a_rate_draws_it_and_goes_on(tiny_recipe, tmp_path, capsys):
    out, facts = tmp_path / "rates", tmp_path / "facts.json"
    words = ["tune", str(tiny_recipe), "--tokens", "3072", "--rates", "1e-5", "1x", "1e-1", "--out", str(out)]
    words += ["--carry-to", str(tiny_recipe), "--json", str(facts)]
    assert main(words) == 0
    said, found = capsys.readouterr().out, json.loads(facts.read_text())
    assert [row["rate"] for row in found["rows"]] == [1e-5, 1e-2, 1e-1]
    best = min(found["rows"], key=lambda row: row["loss"])
    assert found["rate"] == best["rate"] > 1e-5
    assert found["carried"] == pytest.approx(best["rate"])
    assert f"best: optim.lr = {best['rate']:g}" in said
    assert f"optim.lr 0.01      validation loss {found['rows'][1]['loss']:.4f}" in said
    assert ("it is the highest rate that was tried" in said) == (found["edge"] == "highest")
    assert (out / "rates.png").read_bytes().startswith(b"\x89PNG")
    before = {file: file.stat().st_mtime_ns for file in (out / "runs").rglob("*") if file.is_file()}
    assert main(words) == 0
    assert before == {file: file.stat().st_mtime_ns for file in before}


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--rates", "fast"], "tune = 'fast'|rates"),
        (["--rates", "1x", "1e-2"], "two of these are the same rate"),
        (["--tokens", "10"], "budget.tokens = 10"),
    ],
)
def test_what_cannot_be_tuned_is_refused_before_anything_is_written(
    words, complaint, tiny_recipe, tmp_path, capsys
):
    out = tmp_path / "rates"
    assert main(["tune", str(tiny_recipe), "--tokens", "3072", "--out", str(out), *words]) == 1
    assert re.search(complaint, capsys.readouterr().err)
    assert not out.exists()
