"""metrics.jsonl: append only, each step once for a reader, damage named."""

import json

import pytest

from gptlab.errors import CheckpointError
from gptlab.train.metrics import MetricsLog, read_rows


def test_rows_are_appended(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for step in (1, 2):
        with MetricsLog(path) as log:
            log.write("step", step=step, loss=float("nan"))
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"kind": "step", "step": 1, "loss": None},
        {"kind": "step", "step": 2, "loss": None},
    ]


def test_a_half_written_last_line_is_taken_away(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"kind": "step", "step": 1}\n{"kind": "st')
    assert [row["step"] for row in read_rows(path)] == [1]
    with MetricsLog(path) as log:
        log.write("step", step=2)
    assert [row["step"] for row in read_rows(path)] == [1, 2]


def test_a_resume_takes_back_later_steps(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path) as log:
        for step in range(1, 6):
            log.write("step", step=step, loss=0.0)
        log.write("event", event="resume", step=3)
        for step in range(4, 7):
            log.write("step", step=step, loss=1.0)
    steps = [(row["step"], row["loss"]) for row in read_rows(path) if row["kind"] == "step"]
    assert steps == [(1, 0.0), (2, 0.0), (3, 0.0), (4, 1.0), (5, 1.0), (6, 1.0)]


def test_a_damaged_line_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"kind": "step", "step": 1}\nnonsense\n{"kind": "step", "step": 2}\n')
    with pytest.raises(CheckpointError, match="line 2"):
        read_rows(path)
