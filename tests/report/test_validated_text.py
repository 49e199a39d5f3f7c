"""Losses in a report: only those on one text stand in one column, also where runs do not tell which it was."""

from pathlib import Path
from typing import Any

import pytest
from run_folders import Page, curve, event_row, step_row, val_row, write_run

from gptlab.report.charts import loss_chart
from gptlab.report.runs import report
from gptlab.runs.history import read_runs, validations


def hashed(rows: list[dict[str, Any]], sha256: str) -> list[dict[str, Any]]:
    """Rows as this version writes them; those without are of the one before."""
    return [row | {"items_sha256": sha256 * 64} if row["kind"] == "val" else row for row in rows]


def head_of(out: Path) -> list[str]:
    return Page((out / "index.html").read_text(encoding="utf-8")).tables[0][0]


def test_losses_on_other_text_never_share_a_column(tmp_path):
    """Told apart by what was read, not by where it lay; of one run, what it was validated on last counts."""
    texts = {"one": "1", "two": "1", "three": "3"}
    for name, sha256 in texts.items():
        rows = [row | {"items_sha256": sha256 * 64} if row["kind"] == "val" else row for row in curve()]
        write_run(tmp_path / name, [val_row(0, loss=0.5) | {"items_sha256": "0" * 64}, *rows[1:]], data=name)
    told = report([tmp_path / "one", tmp_path / "two"], tmp_path / "same")
    assert told["notes"] == []
    assert [run["best_step"] for run in told["runs"]] == [40, 40], "the loss of 0.5 is one on other text"
    assert "best\nvalidation\nloss" in (tmp_path / "same" / "index.html").read_text()
    told = report([tmp_path / name for name in texts], tmp_path / "out")
    assert told["notes"] == ["These runs differ in validation set: compare with care."]
    page = Page((tmp_path / "out" / "index.html").read_text(encoding="utf-8"))
    head, *rows = page.tables[0]
    assert head[3] == "best\nvalidation\nloss\non 11111111"
    assert head[6] == "best\nvalidation\nloss\non 33333333"
    assert [(row[3] == "\u2013", row[6] == "\u2013") for row in rows] == [
        (False, True),
        (False, True),
        (True, False),
    ]
    assert "validated on different text: their points cannot be compared" in " ".join(page.words)


def test_a_run_continued_with_this_version_keeps_its_earlier_validations(tmp_path):
    """The best loss may be one of them; with two texts on record nothing tells which one theirs was."""
    before = [val_row(0), step_row(1), val_row(10, loss=2.0)]
    after = hashed([step_row(20), val_row(20, loss=3.0)], "1")
    folder = write_run(tmp_path / "run", [*before, event_row("resume", 10), *after])
    [run] = read_runs([folder])
    assert [row["step"] for row in validations(run)] == [0, 10, 20]
    told = report([folder], tmp_path / "out")["runs"][0]
    assert (told["best_loss"], told["best_step"], told["validation_sha256"]) == (2.0, 10, "1" * 64)
    [run] = read_runs(
        [write_run(tmp_path / "two", [*before, *after, *hashed([step_row(30), val_row(30)], "2")])]
    )
    assert [row["step"] for row in validations(run)] == [30]


def test_validations_before_a_change_of_the_text_are_of_another(tmp_path):
    turn = event_row("resume", 10) | {"changed": {"data.path": ["data/a", "data/b"]}}
    rows = [val_row(0), step_row(10), val_row(10), turn, step_row(20), *hashed([val_row(20)], "1")]
    [run] = read_runs([write_run(tmp_path / "run", rows, data="data/b")])
    assert [row["step"] for row in validations(run)] == [20]


@pytest.mark.parametrize("data", ["data/a", "data/b"])
def test_a_text_that_is_not_on_record_is_that_of_runs_with_the_same_settings(tmp_path, data):
    same = data == "data/a"
    folders = [
        write_run(tmp_path / "old", curve()),
        write_run(tmp_path / "new", hashed(curve(), "1"), data=data),
    ]
    told = report(folders, tmp_path / "out")
    head = head_of(tmp_path / "out")
    assert head[3] == "best\nvalidation\nloss" + ("" if same else "\non text not on record")
    assert sum("validation" in name for name in head) == (1 if same else 2)
    assert told["notes"] == (
        []
        if same
        else [
            "These runs differ in validation set: compare with care.",
            "old: the text it was validated on is not on record, as an older gptlab kept none, and its settings do not "
            "say that it is another run's: its losses have columns of their own.",
        ]
    )
    caption = loss_chart(read_runs(folders)).caption
    assert ("validated on different text" in caption) != same


def test_a_text_that_is_not_on_record_is_not_guessed_among_two(tmp_path):
    folders = [
        write_run(tmp_path / "old", curve()),
        *(write_run(tmp_path / name, hashed(curve(), name)) for name in "12"),
    ]
    told = report(folders, tmp_path / "out")
    assert sum("validation" in name for name in head_of(tmp_path / "out")) == 3
    assert [run["validation_sha256"] for run in told["runs"]] == [None, "1" * 64, "2" * 64]
