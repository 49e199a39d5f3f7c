"""`gptlab report --watch`: written anew while runs train, whole or not there, until they are finished."""

import json
import time

import pytest
from run_folders import curve, eval_row, sample_row, step_row, val_row, write_run

from gptlab import cli
from gptlab.report import watch
from gptlab.report.runs import report
from gptlab.runs.history import read_runs


def append(run, rows):
    with (run / "metrics.jsonl").open("a") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize(
    ("rows", "over"),
    [
        (curve(), True),
        (curve(steps=39), False),
        ([val_row(0), *(step_row(step) for step in range(1, 41))], False),
        ([step_row(step) for step in range(1, 41)], True),
        ([*curve(), eval_row(0), eval_row(0, "continuation"), eval_row(40)], False),
        ([*curve(), eval_row(0), eval_row(40), sample_row(0), sample_row(40)], True),
        ([*curve(), eval_row(20) | {"by": "gptlab eval"}], True),
        ([val_row(0)], False),
    ],
)
def test_a_run_is_finished_once_it_has_done_all_that_its_last_step_brings(tmp_path, rows, over):
    [run] = read_runs([write_run(tmp_path / "run", rows)])
    assert watch.finished(run) == over


def test_the_page_follows_the_run_and_is_final_at_its_end(tmp_path, monkeypatch, capsys):
    run, out = write_run(tmp_path / "run", curve(steps=10)), tmp_path / "out"
    pages = []

    def sleep(_seconds):
        pages.append((out / "index.html").read_text(encoding="utf-8"))
        assert [file.name for file in out.iterdir()] == ["index.html"], "no pictures, nothing half written"
        append(run, [[step_row(11)], [], [*curve()[12:]]][len(pages) - 1])

    monkeypatch.setattr(time, "sleep", sleep)
    assert cli.main(["report", str(run), "--out", str(out), "--watch"]) == 0
    assert "index.html: written anew while the runs train; Ctrl-C ends this" in capsys.readouterr().out
    assert ['data-reload="5"' in page for page in pages] == [True] * 3
    assert pages[0] != pages[1] == pages[2], "written only when there is something new"
    final = (out / "index.html").read_text(encoding="utf-8")
    assert 'data-reload=""' in final
    assert (out / "loss.png").is_file()


def test_ctrl_c_leaves_a_final_page(tmp_path, monkeypatch):
    run, out = write_run(tmp_path / "run", curve(steps=10)), tmp_path / "out"

    def interrupt(_seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", interrupt)
    told = watch.watch([run], out)
    assert told == report([run], out)
    assert 'data-reload=""' in (out / "index.html").read_text(encoding="utf-8")
