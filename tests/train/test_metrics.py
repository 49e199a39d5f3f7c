"""metrics.jsonl: append only, each step once for a reader, damage named."""

import json
import os
from types import SimpleNamespace

from gptlab.train import metrics
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


def test_what_a_power_cut_leaves_at_the_end_is_taken_away(tmp_path):
    """Blocks that the file was already given, and no content yet."""
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
    told = []
    assert [row["step"] for row in read_rows(path, told.append)] == [1, 2]
    assert [line.split(": ")[1].split()[1] for line in told] == [str(2 + n) for n in range(len(other))]
