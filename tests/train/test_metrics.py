"""metrics.jsonl: append only, each step once for a reader, damage named."""

import json

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
