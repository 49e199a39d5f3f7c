"""Losses share an axis in nats per token only where the runs' tokenizers are the same one."""

import math

import numpy as np
import pytest
from run_folders import BATCH, curve, write_run

from gptlab.report.answer import answer
from gptlab.report.chart import FLOPS, TIME
from gptlab.report.charts import front_chart, loss_chart
from gptlab.report.cost import Cost, flops_per_token
from gptlab.report.runs import facts, report
from gptlab.report.units import BITS, NATS, unit
from gptlab.runs.history import read_runs


def with_bytes(rows, bytes_a_token):
    """Rows of a tokenizer with so many bytes a token."""
    bits = 1 / (math.log(2) * bytes_a_token)
    return [
        row | {"bits_per_byte": bits * row["loss"], "items_sha256": f"{bytes_a_token:.1f}"}
        if row["kind"] == "val"
        else row
        for row in rows
    ]


@pytest.fixture
def two(tmp_path):
    """A run on bytes and one on longer tokens."""
    return [
        write_run(tmp_path / "bytes", with_bytes(curve(), 1.0)),
        write_run(tmp_path / "words", with_bytes(curve(), 4.0)),
    ]


def test_runs_of_other_tokenizers_share_an_axis_in_bits_per_byte(two, tmp_path):
    runs = read_runs(two)
    assert unit(runs).name == BITS
    assert unit(runs).factors == pytest.approx((1 / math.log(2), 0.25 / math.log(2)))
    chart = loss_chart(runs)
    assert chart.title == "loss, bits per byte"
    assert "tokenizers differ, so losses are bits per byte and not nats per token" in chart.caption
    _, trained, validated = chart.curves[3:6]
    alone = loss_chart(runs[1:])
    assert alone.title == "loss, nats per token"
    assert validated.y == pytest.approx(0.25 / math.log(2) * alone.curves[2].y)
    assert trained.y == pytest.approx(0.25 / math.log(2) * alone.curves[1].y)
    front = front_chart(runs)
    assert front is not None
    assert [curve.y[0] for curve in front.curves] == pytest.approx(
        [run.metrics["val"][-1]["bits_per_byte"] for run in runs]
    )
    told = answer(runs, [facts(run, runs[0]) for run in runs])
    assert told.startswith("words reaches the lowest validation loss, ")
    assert "bits per byte" in told
    report(two, tmp_path / "out")
    assert "loss, nats per token" not in (tmp_path / "out" / "index.html").read_text(encoding="utf-8")


def test_a_run_whose_bits_are_not_on_record_is_left_out_and_named(two, tmp_path):
    third = write_run(tmp_path / "third", [row for row in curve() if row["kind"] == "step"])
    chart = loss_chart(read_runs([*two, third]))
    assert len({curve.run for curve in chart.curves}) == 2
    assert "Left out, as their bits per byte are not on record: third." in chart.caption


def test_other_vocabularies_are_other_tokenizers(tmp_path):
    folders = [write_run(tmp_path / name, curve()) for name in ("one", "two")]
    assert unit(read_runs(folders)).name == NATS
    recipe = folders[0] / "config.toml"
    recipe.write_text(recipe.read_text().replace("[model]\n", "[model]\nvocab_size = 257\n"))
    assert unit(read_runs(folders)).name == BITS


def test_losses_on_other_text_have_no_front(tmp_path):
    rows = [
        [row | {"items_sha256": name} if row["kind"] == "val" else row for row in curve()] for name in "ab"
    ]
    runs = read_runs([write_run(tmp_path / f"run{i}", each) for i, each in enumerate(rows)])
    assert front_chart(runs) is None
    told = answer(runs, [facts(run, runs[0]) for run in runs])
    assert told == "These runs were validated on different text, so their losses do not rank them."


def test_a_run_costs_tokens_operations_and_time(tmp_path):
    folder = write_run(tmp_path / "run", curve(speed=1e6))
    [run] = read_runs([folder])
    tokens = np.array([0.0, BATCH, 40 * BATCH])
    assert flops_per_token(run) is None
    assert Cost(run).axes(tokens) == {TIME: pytest.approx(tokens / 1e6)}
    (folder / "environment.json").write_text('{"parameters_non_embedding": 85000000}')
    recipe = folder / "config.toml"
    sizes = "n_embd = 768\ncontext = 1024\nvocab_size = 50257\n"
    recipe.write_text(recipe.read_text().replace("n_layer = 4\n", "n_layer = 12\n" + sizes))
    [run] = read_runs([folder])
    from gptlab.model.gpt import ModelConfig
    from gptlab.model.size import measure

    exact = measure(ModelConfig(n_layer=12, n_head=12, n_embd=768, context=1024, vocab_size=50257))
    assert flops_per_token(run) == pytest.approx(exact.flops_per_token, rel=2e-3)
    assert Cost(run).axes(tokens)[FLOPS] == pytest.approx(tokens * flops_per_token(run))
