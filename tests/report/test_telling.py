import re

import pytest
from run_folders import Page, curve, eval_row, write_run

from gptlab.report.runs import report
from gptlab.report.score_charts import score_charts
from gptlab.report.telling import telling
from gptlab.runs.history import read_runs

BITS = {"answer_bits_per_byte": 1.25, "answer_bits_per_byte_stderr": 0.02}


def without_norm(row, acc):
    return row | {"acc": acc, "acc_norm": None, "stderr_norm": None}


def test_a_table_says_what_the_last_scores_tell(tmp_path):
    blimp = without_norm(eval_row(40, "blimp", "harness", n=1000), 0.8)
    words = without_norm(eval_row(40, "lambada_openai", "harness", n=1000), 0.1)
    first = [eval_row(20, "arc_easy", "harness", n=1000, acc_norm=0.26) | BITS, blimp, words]
    second = [eval_row(40, "arc_easy", "harness", n=1000, acc_norm=0.5) | BITS]
    folders = [
        write_run(tmp_path / "one", [*curve(), *first]),
        write_run(tmp_path / "two", [*curve(seed=1), *second]),
    ]
    report(folders, tmp_path / "out")
    page = Page((tmp_path / "out" / "index.html").read_text(encoding="utf-8"))
    [(head, *rows)] = [table for table in page.tables if table[0][0] == "task"]
    assert head == [
        "task",
        "published,\nat 150M, %",
        "chance, %",
        "one",
        "two",
        "least gap that shows, points",
    ]
    told = {row[0].split(",")[0]: row[1:] for row in rows}
    assert told["arc_easy"][:2] == ["93", "25"]
    assert re.fullmatch(r"26\.00 . 1\.39\nsays nothing yet\n1\.25 . 0\.02 bits per byte", told["arc_easy"][2])
    assert re.fullmatch(r"50\.00 . 1\.58\nabove chance\n1\.25 . 0\.02 bits per byte", told["arc_easy"][3])
    assert told["arc_easy"][4] == "4.7"  # three errors of the second
    assert told["blimp"][:2] == ["\u2013", "50"]
    assert re.fullmatch(r"80\.00 . \d\.\d\d\nabove chance", told["blimp"][2])
    assert told["blimp"][3] == "\u2013"
    assert re.fullmatch(r"10\.00 . \d\.\d\d", told["lambada_openai"][2])


def test_without_an_accuracy_there_is_no_table():
    loss = {"task": "wikitext", "protocol": "lm-eval", "shots": 0, "n": 3, "word_perplexity": 30.0}
    assert telling([{"name": "x", "scores": []}]) == ""
    assert telling([{"name": "x", "scores": [loss]}]) == ""


def test_bits_per_byte_are_drawn_where_a_run_has_them(tmp_path):
    rows = [eval_row(step) | BITS | {"answer_bits_per_byte": 2 - step / 40} for step in (0, 20, 40)]
    new, old = (
        write_run(tmp_path / name, [*curve(), *each])
        for name, each in (("new", rows), ("old", [eval_row(40)]))
    )
    charts = {chart.title: chart for chart in score_charts(read_runs([new, old]))}
    drawn = charts["hellaswag (completion), bits per byte of the right answer"]
    assert [curve.label for curve in drawn.curves] == ["new: 1.0000 \u00b1 0.0200"]
    assert drawn.curves[0].y == pytest.approx([2, 1.5, 1])
    assert not [
        title for title in (chart.title for chart in score_charts(read_runs([old]))) if "bits" in title
    ]
