"""metrics.jsonl: append only, each step read once, damage reported."""

import json
import math
import os
from types import SimpleNamespace

import pytest

from gptlab.runs import metrics
from gptlab.runs.metrics import MetricsLog, append_row, count_lines, read_rows, went_back


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


def test_what_a_power_cut_leaves_at_the_end_is_taken_away(tmp_path):
    """Blocks allocated to the file, but not written."""
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"kind": "step", "step": 1}\n' + b"\0" * 4096)
    assert [row["step"] for row in read_rows(path)] == [1]
    with MetricsLog(path) as log:
        log.write("step", step=2)
    assert path.read_text() == '{"kind": "step", "step": 1}\n{"kind": "step", "step": 2}\n'


def test_a_first_line_that_is_half_written_is_taken_away(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"kind": "st')
    with MetricsLog(path):
        assert path.read_bytes() == b""


def test_rows_of_five_seconds_ago_are_on_the_disk(tmp_path, monkeypatch):
    clock, forced, fsync = SimpleNamespace(now=0.0, monotonic=lambda: clock.now), [], os.fsync

    def noted(descriptor):
        forced.append(os.fstat(descriptor).st_size)
        fsync(descriptor)

    monkeypatch.setattr(metrics, "time", clock)
    monkeypatch.setattr(os, "fsync", noted)
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path) as log:
        sizes = {}
        for second in range(60):
            clock.now = float(second)
            log.write("step", step=second)
            sizes[second] = path.stat().st_size
            assert max(forced, default=0) >= sizes.get(second - 6, 0)
        assert len(forced) < 15
    assert forced[-1] == path.stat().st_size


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


def test_a_rollback_takes_back_later_steps_but_not_what_happened(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path) as log:
        for step in (1, 2, 3):
            log.write("step", step=step, loss=0.0)
        log.write("event", event="skip", step=3)
        log.write("event", event="signal", step=3)
        log.write("event", event="rollback", step=1)
        log.write("step", step=2, loss=1.0)
    rows = read_rows(path)
    assert [(row["kind"], row["step"]) for row in rows] == [
        ("step", 1),
        ("event", 3),
        ("event", 1),
        ("step", 2),
    ]
    assert [row["event"] for row in rows if row["kind"] == "event"] == ["signal", "rollback"]


def test_of_rows_about_the_same_the_last_counts_in_the_place_of_the_first(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path) as log:
        log.write("sample", step=1, prompt="a", text="b")
        log.write("sample", step=1, prompt="a", text="c")
        log.write("val", step=1, loss=3.0)
        log.write("sample", step=1, prompt="a", text="b", tokens=7)
    rows = read_rows(path)
    assert [(row["kind"], row.get("text")) for row in rows] == [
        ("sample", "b"),
        ("sample", "c"),
        ("val", None),
    ]
    assert rows[0]["tokens"] == 7


def test_a_line_that_is_no_row_is_named_and_passed_over(tmp_path):
    path = tmp_path / "metrics.jsonl"
    row = '{"kind": "step", "step": 1}\n'
    other = [
        "nonsense",
        "[1]",
        '{"kind": "step"}',
        '{"kind": "step", "step": "2"}',
        '{"step": 2}',
        "[" * 9999,
    ]
    path.write_text(row + "\n".join(other) + "\n" + row.replace("1", "2"))
    assert [row["step"] for row in read_rows(path)] == [1, 2]


SCORE = {"step": 1, "task": "piqa", "protocol": "lm-eval", "shots": 0, "n": 9, "perplexity": math.inf}


def test_another_process_adds_a_row_while_the_run_writes(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path) as log:
        log.write("step", step=1, loss=2.0)
        append_row(path, "eval", SCORE, "me")
        log.write("step", step=2, loss=1.0)
        with MetricsLog(path):  # starting a run removes none of it
            append_row(path, "eval", {**SCORE, "n": 5}, "me")
    rows = read_rows(path)
    assert [(row["kind"], row["step"]) for row in rows] == [
        ("step", 1),
        ("eval", 1),
        ("step", 2),
        ("eval", 1),
    ]
    assert rows[1] == {"kind": "eval", **SCORE, "perplexity": None, "by": "me"}
    assert read_rows(path, own=True) == [rows[0], rows[2]]


def test_the_first_row_may_be_somebody_elses(tmp_path):
    append_row(tmp_path / "metrics.jsonl", "eval", SCORE, "me")
    assert (tmp_path / "metrics.jsonl").read_text().count("\n") == 1
    assert len(read_rows(tmp_path / "metrics.jsonl")) == 1


def test_a_row_behind_half_a_line_takes_nothing_away(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(half := '{"kind": "step", "step": 1}\n{"kind": "st')
    append_row(path, "eval", SCORE, "me")
    assert path.read_text().startswith(half + "\n")
    assert [row["kind"] for row in read_rows(path)] == ["step", "eval"]


def test_an_added_row_does_not_hide_the_runs_own(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path) as log:
        log.write("eval", **{**SCORE, "acc": 0.25})
        append_row(path, "eval", {**SCORE, "acc": 0.26}, "me")
        append_row(path, "eval", {**SCORE, "acc": 0.5, "data": "mine"}, "me")
    assert [row["acc"] for row in read_rows(path)] == [0.26, 0.5]
    assert [row["acc"] for row in read_rows(path, own=True)] == [0.25]


def test_a_row_of_an_earlier_step_counts_until_the_run_goes_back_behind_it(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert (count_lines(path), went_back(path, 5, since=0)) == (0, False)
    with MetricsLog(path) as log:
        log.write("event", event="resume", step=3)
        lines = count_lines(path)
        log.write("step", step=9)
        append_row(path, "eval", {**SCORE, "step": 5}, "me")
        log.write("event", event="resume", step=5)
        assert [row["kind"] for row in read_rows(path)] == ["event", "eval", "event"]
        assert (went_back(path, 5, since=lines), went_back(path, 5, since=0)) == (False, True)
        log.write("event", event="rollback", step=4)
        assert [row["kind"] for row in read_rows(path)] == ["event", "event", "event"]
        assert went_back(path, 5, since=lines)


def test_a_row_that_finds_no_space_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"kind": "step", "step": 1}\n')
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 10, hard))
    try:
        with pytest.raises(OSError, match="No space left"):
            append_row(path, "eval", SCORE, "me")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    append_row(path, "eval", SCORE, "me")  # on a line of its own
    assert [row["kind"] for row in read_rows(path)] == ["step", "eval"]
    monkeypatch.setattr(metrics.storage, "free_bytes", lambda folder: 4096)
    before = path.read_bytes()
    with pytest.raises(OSError, match="No space left"):
        append_row(path, "eval", SCORE, "me")
    assert path.read_bytes() == before
