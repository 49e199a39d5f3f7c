import base64
import json
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from run_folders import (
    BATCH,
    SAMPLE,
    Page,
    curve,
    eval_row,
    event_row,
    sample_row,
    step_row,
    val_row,
    write_run,
)

from gptlab import cli
from gptlab.errors import ConfigError
from gptlab.eval.published import beside
from gptlab.report.charts import loss_chart
from gptlab.report.page_folder import file_name
from gptlab.report.runs import facts, notes, rate_charts, report, score_charts
from gptlab.runs.history import read_metrics, read_runs


def picture(called):
    """The name of a group's picture; rows of these tests are older than the hash of the items."""
    return file_name(called.replace(",", "") + " ")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A report of three runs: the baseline, a variant under both protocols, and one that was stopped."""
    folder = tmp_path_factory.mktemp("report")
    scores = [eval_row(step, acc_norm=0.26 + step / 800) for step in (0, 20, 40)]
    harness = [eval_row(step, protocol="harness", acc_norm=0.27 + step / 800) for step in (0, 20, 40)]
    write_run(folder / "baseline", [*curve(), *scores, sample_row(0, "early"), sample_row(40)])
    write_run(folder / "rope", [*curve(seed=1), *scores, *harness], position="rope", parameters=1_010_000)
    write_run(folder / "_stopped$", curve(steps=20, seed=2))
    out = folder / "out"
    told = report([folder / "baseline", folder / "rope", folder / "_stopped$"], out)
    return out, told, Page((out / "index.html").read_text(encoding="utf-8"))


def test_a_resumed_run_reads_like_an_uninterrupted_one(tmp_path):
    rows = [*curve(), eval_row(10), eval_row(30), sample_row(30)]
    rows.sort(key=lambda row: row["step"])
    until = [row for row in rows if row["step"] <= 20]
    # What the kill undid: other values, and rows of a kind that does not come again.
    undone = [step_row(step, seed=9) for step in range(21, 26)] + [val_row(21), eval_row(25), sample_row(25)]
    after = [row for row in rows if row["step"] > 20]
    write_run(tmp_path / "whole", rows)
    write_run(tmp_path / "resumed", [*until, *undone, event_row("resume", 20), *after])

    whole, resumed = read_metrics(tmp_path / "whole"), read_metrics(tmp_path / "resumed")
    assert resumed.pop("event") == [event_row("resume", 20)]
    assert whole.pop("event") == []
    assert resumed == whole
    assert [row["step"] for row in resumed["step"]] == list(range(1, 41))
    assert [row["step"] for row in resumed["val"]] == [0, 10, 20, 30, 40]


def test_of_a_step_written_twice_the_last_counts(tmp_path):
    write_run(
        tmp_path / "run", [step_row(1), step_row(2), step_row(1, seed=5), eval_row(2), eval_row(2, n=9)]
    )
    metrics = read_metrics(tmp_path / "run")
    assert [row["step"] for row in metrics["step"]] == [1, 2]
    assert metrics["step"][0]["loss"] == step_row(1, seed=5)["loss"]
    assert [row["n"] for row in metrics["eval"]] == [401, 9]


def test_a_half_line_is_no_row(tmp_path):
    run = write_run(tmp_path / "run", curve())
    whole = read_metrics(run)
    text = (run / "metrics.jsonl").read_bytes()
    (run / "metrics.jsonl").write_bytes(text + '{"kind": "val", "step": 41, "text": "\u00e9'.encode()[:-1])
    assert read_metrics(run) == whole


def test_tokens_come_from_the_step(tmp_path):
    run = write_run(
        tmp_path / "run", [val_row(0), step_row(1), val_row(1), eval_row(1) | {"tokens": 7}, val_row(2)]
    )
    metrics = read_metrics(run)
    assert [row["tokens"] for row in metrics["val"]] == [0, BATCH, None]
    assert metrics["eval"][0]["tokens"] == 7


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("metrics.jsonl", None, "holds no metrics.jsonl"),
        ("metrics.jsonl", b"", "holds no step"),
        ("metrics.jsonl", b"\x93NUMPY\x01\x00\n[1, 2]\n3\n", "holds no step"),
        ("metrics.jsonl", b'{"epoch": 1, "loss": 2.0}\n', "holds no step"),
        ("metrics.jsonl", b'{"kind": "val", "loss": 2.0}\n', "holds no step"),
        ("config.toml", b"[model\n", "damaged"),
        ("environment.json", b"{", "damaged"),
        ("environment.json", b"[]", "damaged"),
        ("environment.json", b'{"parameters": "many"}', "damaged (parameters = 'many')"),
        ("environment.json", b'{"processes": true}', "damaged (processes = True)"),
        (
            "config.toml",
            b"[train]\nsteps = 1979-05-27\n",
            "damaged (train.steps = datetime.date(1979, 5, 27))",
        ),
        ("config.toml", b"a = " + b"[" * 100_000, "damaged"),
    ],
)
def test_a_folder_that_is_no_run_is_refused_on_one_line(tmp_path, file, content, says):
    run = write_run(tmp_path / "run", curve())
    (run / file).unlink()
    if content is not None:
        (run / file).write_bytes(content)
    with pytest.raises(ConfigError) as error:
        report([run], tmp_path / "out")
    message = str(error.value)
    assert says in message
    assert str(run) in message
    assert ";" in message, "names no remedy"
    assert "\n" not in message
    assert not (tmp_path / "out").exists()


def test_a_score_that_does_not_say_of_what_is_passed_over(tmp_path):
    damaged = [{**eval_row(8), key: None} for key in ("task", "protocol", "shots", "n")]
    damaged += [
        {key: value for key, value in eval_row(8).items() if key != "task"},
        {**eval_row(8), "acc": "high"},
    ]
    run = write_run(tmp_path / "run", [*curve(), eval_row(4), *damaged])
    assert [row["step"] for row in read_metrics(run)["eval"]] == [4]


def test_no_run_and_a_missing_folder_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="no run"):
        report([], tmp_path / "out")
    with pytest.raises(ConfigError, match=r"absent: holds no metrics\.jsonl"):
        report([tmp_path / "absent"], tmp_path / "out")


def test_an_output_that_cannot_be_written_is_refused(tmp_path):
    run = write_run(tmp_path / "run", [val_row(0)])
    (tmp_path / "out").write_text("a file")
    with pytest.raises(ConfigError, match="out: is a file; choose a folder"):
        report([run], tmp_path / "out")
    with pytest.raises(ConfigError, match="below: cannot be written"):
        report([run], tmp_path / "out" / "below")


def test_a_report_is_replaced_by_the_same_ones_only(tmp_path, capsys):
    for name in ("first", "second"):
        write_run(tmp_path / name, curve())
    first, second, out = tmp_path / "first", tmp_path / "second", tmp_path / "out"

    def told(*runs, to=out):
        return cli.main(["report", *map(str, runs), "--out", str(to)]), capsys.readouterr().err

    out.mkdir()  # an empty folder is nobody's
    assert told(first)[0] == 0
    page = (out / "index.html").read_bytes()
    assert told(second) == (
        1,
        f"gptlab report: {out}: holds the report of first; choose another folder or delete this one\n",
    )
    assert told(first, second)[0] == 1, "nor is it another one because it has the old one's run"
    assert (out / "index.html").read_bytes() == page
    with (first / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(step_row(41)) + "\n")
    assert told(first)[0] == 0
    assert (out / "index.html").read_bytes() != page
    assert told(first, second, to=tmp_path / "both")[0] == 0
    assert told(second, first, to=tmp_path / "both")[0] == 0
    (out / "notes.txt").write_text("mine")
    assert told(first) == (
        1,
        f"gptlab report: {out}: holds notes.txt, which is not part of any report; "
        "choose another folder or delete this one\n",
    )
    assert told(first, to=first)[1].startswith(
        f"gptlab report: {first}: holds config.toml, which is not part of any report"
    )


def test_the_page_of_somebody_is_left_alone(tmp_path, capsys):
    run, out = write_run(tmp_path / "run", curve()), tmp_path / "out"
    out.mkdir()
    for text in ("<html>mine", '<meta name="gptlab" content="[1]">', '<meta name="gptlab" content="{">'):
        (out / "index.html").write_text(text)
        assert cli.main(["report", str(run), "--out", str(out)]) == 1
        assert "holds index.html, which is not part of any report" in capsys.readouterr().err
        assert (out / "index.html").read_text() == text


def test_pictures_that_a_report_has_no_more_are_deleted_and_nothing_else(tmp_path):
    run, out = write_run(tmp_path / "run", [*curve(), eval_row(40)]), tmp_path / "out"
    report([run], out)
    assert (out / (picture("hellaswag, completion, 0-shot, n = 401") + ".png")).is_file()
    page = out / "index.html"
    # A page that names files elsewhere deletes none of them.
    (tmp_path / "thesis.tex").write_text("mine")
    page.write_text(page.read_text().replace("loss.png", "../thesis.tex", 1))
    (out / "loss.png").unlink()
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in curve()))
    told = report([run], out)
    assert sorted(told["files"]) == sorted(map(str, out.iterdir()))
    assert not (out / (picture("hellaswag, completion, 0-shot, n = 401") + ".png")).exists()
    assert (tmp_path / "thesis.tex").exists()


def resumed(step, changed):
    return {**event_row("resume", step), "changed": changed}


RATE, AGAIN = {"optim.lr": [0.002, 0.001]}, {"optim.lr": [0.001, 0.0005]}
LATER = [step_row(step) for step in range(21, 41)]
STORIES = {
    "continued": ([resumed(20, RATE), *LATER], 0.001, "0.002, from step 20 on 0.001"),
    "continued twice": (
        [resumed(20, RATE), *LATER[:10], resumed(30, AGAIN), *LATER[10:]],
        0.0005,
        "0.002, from step 20 on 0.001, from step 30 on 0.0005",
    ),
    "undone by a kill, and done again": (
        [resumed(20, RATE), *LATER[:5], resumed(20, {}), *LATER],
        0.001,
        "0.002, from step 20 on 0.001",
    ),
    "undone by a kill, from further back": (
        [resumed(20, RATE), *LATER[:5], resumed(10, {}), *curve()[12:]],
        0.001,
        "0.002, from step 10 on 0.001",
    ),
    "undone and given up": (
        [resumed(20, RATE), *LATER[:5], resumed(20, {"optim.lr": [0.001, 0.002]}), *LATER],
        0.002,
        None,
    ),
    "gone back under the same settings": (
        [resumed(20, RATE), *LATER[:5], event_row("rollback", 10), *curve()[12:]],
        0.001,
        "0.002, from step 10 on 0.001",
    ),
    "stopped before a step": ([resumed(20, RATE), resumed(20, {}), *LATER], 0.002, None),
    "never gone on": ([resumed(20, RATE)], 0.002, None),
    "never gone on, by an older gptlab": ([resumed(20, RATE)], 0.001, None),
    "begun anew before the first checkpoint": ([resumed(0, RATE), *curve()], 0.001, None),
    "what is no change": ([resumed(20, {"optim.lr": 3}), *LATER], 0.002, None),
}


@pytest.mark.parametrize("story", STORIES)
def test_settings_are_those_that_steps_were_done_under(tmp_path, story):
    rows, written, words = STORIES[story]
    first = [row for row in curve() if row["step"] <= 20]
    run = write_run(tmp_path / "run", [*first, *rows])
    recipe = run / "config.toml"
    recipe.write_text(recipe.read_text().replace("[optim]\n", f"[optim]\nlr = {written}\n"))
    other = write_run(tmp_path / "other", curve())
    (other / "config.toml").write_text(recipe.read_text().replace(f"lr = {written}", "lr = 0.01"))
    trained = 0.002 if story.startswith("never") else written
    [read] = read_runs([run])
    assert read.config["optim.lr"] == trained
    told = report([run, other], tmp_path / "out", watched=True)
    page = Page((tmp_path / "out" / "index.html").read_text(encoding="utf-8"))
    assert ["optim.lr", words or str(trained), "0.01"] in page.tables[1]
    said = f"Trained under settings that changed: optim.lr {words}."
    assert (said in page.words) == (words is not None)
    assert ("optim.lr" in told["runs"][0]["changes"]) == (words is not None)
    assert "Highest learning rate of its steps: 0.001." in page.words, "the metrics' own"


def test_a_plan_of_other_hours_is_none(tmp_path):
    rows = [{**event_row("plan", 5), "steps": 70}, {**event_row("plan", 10), "steps": 60}]
    back = [*curve(), *rows, event_row("resume", 8), *curve()[9:]]
    [read] = read_runs([write_run(tmp_path / "back", back)])
    assert read.planned_steps == 70, "the later plan was made after what was undone"
    steps = [*curve(20), *rows, resumed(20, {"train.steps": [None, 40], "train.hours": [1.0, None]}), *LATER]
    [read] = read_runs([write_run(tmp_path / "steps", steps)])
    assert (read.planned_steps, read.until(20).planned_steps) == (40, 60)


def test_facts(tmp_path):
    rows = [
        *curve(speed=1e6),
        val_row(15, 2.5),
        val_row(16, None) | {"loss": None},
        eval_row(10),
        eval_row(40, acc_norm=0.6),
    ]
    write_run(tmp_path / "first", curve(), position="learned")
    write_run(tmp_path / "second", rows, position="rope", batch=8192)
    first, second = read_runs([tmp_path / "first", tmp_path / "second"])
    told = facts(second, first)
    assert (told["name"], told["parameters"], told["machine"], told["gptlab"]) == (
        "second",
        1_000_000,
        "Abacus",
        "0.1.0",
    )
    assert (told["steps"], told["planned_steps"], told["tokens"]) == (40, 40, 40 * BATCH)
    assert (told["best_loss"], told["best_step"], told["bits_per_byte"]) == (2.5, 15, 2.5 / 3)
    assert told["hours"] == pytest.approx(40 * BATCH / 1e6 / 3600)
    write_run(tmp_path / "annealed", [row for row in curve() if row["step"] > 20])
    [annealed] = read_runs([tmp_path / "annealed"])
    assert facts(annealed, first)["hours"] == pytest.approx(20 * BATCH / 1e6 / 3600)
    write_run(tmp_path / "of hours", [*curve(), {"kind": "event", "event": "plan", "step": 23, "steps": 70}])
    [of_hours] = read_runs([tmp_path / "of hours"])
    assert facts(of_hours, first)["planned_steps"] == 70
    assert [(row["step"], row["acc_norm"]) for row in told["scores"]] == [(40, 0.6)]
    assert told["differences"] == {"model.position": ["learned", "rope"], "train.batch_tokens": [4096, 8192]}
    assert facts(first, first)["differences"] == {}


def test_hours_are_the_same_from_every_fifth_row(tmp_path):
    every = write_run(tmp_path / "every", curve(speed=3e5))
    fifth = write_run(tmp_path / "fifth", [row for row in curve(speed=3e5) if row["step"] % 5 == 0])
    hours = [facts(run, run)["hours"] for run in read_runs([every, fifth])]
    assert hours[0] == pytest.approx(hours[1])


def test_several_processes_are_counted(tmp_path):
    run = write_run(tmp_path / "run", [val_row(0)])
    (run / "environment.json").write_text('{"device": "NVIDIA H200", "processes": 6}')
    [read] = read_runs([run])
    assert facts(read, read)["machine"] == "6 x NVIDIA H200"


@pytest.mark.parametrize(
    ("rows", "settings", "expected"),
    [
        (curve(), {}, []),
        (curve(), {"parameters": 1_019_000}, []),
        (curve(), {"parameters": 1_021_000}, ["parameters"]),
        (curve(), {"data": "data/b"}, ["validation set"]),
        (curve(steps=30), {"planned": 30}, ["tokens"]),
        (curve(batch=8192), {"batch": 8192, "parameters": 5}, ["tokens", "parameters", "batch_tokens"]),
    ],
)
def test_notes_name_what_differs(tmp_path, rows, settings, expected):
    runs = read_runs([write_run(tmp_path / "one", curve()), write_run(tmp_path / "two", rows, **settings)])
    said = notes(runs, [facts(run, runs[0]) for run in runs])
    assert said == ([f"These runs differ in {', '.join(expected)}: compare with care."] if expected else [])


def test_a_stopped_run_is_said_to_be_one(tmp_path):
    [run] = read_runs([write_run(tmp_path / "run", curve(steps=20))])
    assert notes([run], [facts(run, run)]) == ["run is at step 20 of 40: its schedule has not ended."]


def test_runs_of_one_name_are_told_apart(tmp_path):
    folders = [write_run(tmp_path / name, [val_row(0)]) for name in ("a/run", "b/run", "c/other")]
    assert [run.name for run in read_runs(folders)] == [str(folders[0]), str(folders[1]), "other"]


GROUPS = [
    {"protocol": "completion"},
    {"protocol": "harness"},
    {"protocol": "harness", "shots": 10},
    {"protocol": "completion", "n": 100},
    {"task": "continuation", "protocol": "continuation"},
]


def test_what_cannot_be_compared_is_never_in_one_picture(tmp_path):
    """Each group has its own value, so a point in the wrong picture would show."""
    values = [round(0.3 + i / 100, 2) for i in range(len(GROUPS))]
    rows = [eval_row(step, acc_norm=values[i], **group) for i, group in enumerate(GROUPS) for step in (0, 1)]
    runs = read_runs([write_run(tmp_path / name, [step_row(1), *rows]) for name in ("one", "two")])
    charts = score_charts(runs)
    assert len({chart.name for chart in charts}) == len(charts) == len(GROUPS)
    drawn = [{round(float(y) / 100, 9) for curve in chart.curves for y in curve.y} for chart in charts]
    assert all(len(points) == 1 for points in drawn)
    assert set().union(*drawn) == set(values)
    assert all(len(chart.curves) == 2 for chart in charts)
    assert [chart.name.split("_")[0] for chart in charts] == ["hellaswag"] * 4 + ["continuation"]


def test_scores_on_other_items_are_another_group(tmp_path):
    rows = [eval_row(1, acc_norm=0.3), eval_row(1, acc_norm=0.4) | {"data": "mine.jsonl"}]
    [run] = read_runs([write_run(tmp_path / "run", [step_row(1), *rows])])
    assert [float(chart.curves[0].y[0]) for chart in score_charts([run])] == [30, 40]
    assert score_charts([run])[1].caption.startswith(
        "hellaswag, completion, 0-shot, n = 401, items not on record of mine.jsonl: "
    )
    assert [row["data"] for row in facts(run, run)["scores"]] == [None, "mine.jsonl"]


def test_items_are_known_by_their_hash_and_not_by_a_files_name(tmp_path):
    """One file name, two contents: two columns; two names, one content: one column."""
    rows = [
        eval_row(1, acc_norm=acc_norm) | {"data": data, "items_sha256": sha256 * 64}
        for acc_norm, data, sha256 in ((0.3, "a.jsonl", "1"), (0.4, "a.jsonl", "2"), (0.5, "b.jsonl", "2"))
    ]
    [run] = read_runs([write_run(tmp_path / "run", [step_row(1), *rows])])
    assert [row["acc_norm"] for row in facts(run, run)["scores"]] == [0.3, 0.5], (
        "the last of the same items counts"
    )
    first, second = score_charts([run])
    assert first.caption.startswith("hellaswag, completion, 0-shot, n = 401, items 11111111 of a.jsonl: ")
    assert second.caption.startswith("hellaswag, completion, 0-shot, n = 401, items 22222222 of b.jsonl: ")
    assert first.name != second.name


@pytest.mark.parametrize("official", [True, False])
def test_published_lines_say_whether_the_items_are_the_same(tmp_path, official):
    row = eval_row(1, n=10042) | {"items_sha256": "1" * 64, "official": official}
    [run] = read_runs([write_run(tmp_path / "run", [step_row(1), row])])
    [chart] = score_charts([run])
    assert ("n = 10,042, official items: " in chart.caption) == official
    assert ("The scores here are on other items." in chart.caption) != official


def test_names_in_any_alphabet_and_of_any_length_have_pictures_of_their_own(tmp_path):
    names = [
        "\u0434\u0430\u043d\u043d\u044b\u0435.jsonl",
        "\u6570\u636e.jsonl",
        "a-b.jsonl",
        "a b.jsonl",
        "A b.jsonl",
    ]
    names += ["x" * 240, "x" * 239 + "y"]
    rows = [eval_row(1, acc_norm=0.3) | {"data": name} for name in names]
    told = report([write_run(tmp_path / "run", [*curve(), *rows])], tmp_path / "out")
    pictures = {Path(file).name.lower() for file in told["files"] if "hellaswag" in file}
    assert len(pictures) == len(names)
    assert max(map(len, pictures)) < 100
    assert sorted(told["files"]) == sorted(map(str, (tmp_path / "out").iterdir()))


def test_a_score_near_chance_says_so_in_table_and_picture(tmp_path):
    rows = [eval_row(40, n=1000, acc_norm=0.27), eval_row(40, "lambada_openai", n=1000, acc_norm=0.2)]
    folder = write_run(tmp_path / "run", [*curve(), *rows])
    report([folder], tmp_path / "out")
    head, cells = Page((tmp_path / "out" / "index.html").read_text(encoding="utf-8")).tables[0]
    near = "\nnot shown to be above chance (25 %)"
    told = {name: cell for name, cell in zip(head, cells, strict=True) if "hellaswag" in name}
    assert [cell.endswith(near) for cell in told.values()] == [True, True]
    assert not any(near in cell for name, cell in zip(head, cells, strict=True) if "lambada" in name)
    [run] = read_runs([folder])
    assert score_charts([run])[0].curves[0].label.endswith(", not shown to be above chance (25 %)")


def test_of_a_group_the_last_step_counts_and_not_the_last_line(tmp_path):
    rows = [eval_row(20, acc_norm=0.3), eval_row(40, acc_norm=0.4), eval_row(30, acc_norm=0.5)]
    [run] = read_runs([write_run(tmp_path / "run", [*curve(), *rows])])
    assert [row["acc_norm"] for row in facts(run, run)["scores"]] == [0.4]
    [chart] = score_charts([run])
    assert chart.curves[0].y == pytest.approx([30, 50, 40])


def test_results_that_are_no_accuracy(tmp_path):
    row = {
        "kind": "eval",
        "step": 40,
        "task": "lambada",
        "protocol": "lm-eval",
        "shots": 0,
        "n": 9,
        "version": 1.0,
    }
    lambada = row | {"acc": 0.25, "stderr": 0.125, "perplexity": 40.126, "perplexity_stderr": 1.5}
    only = row | {"task": "wikitext", "word_perplexity": 37.5, "byte_perplexity": None}
    folder = write_run(tmp_path / "run", [*curve(), lambada, only])
    told = report([folder], tmp_path / "out")
    head, cells = Page((tmp_path / "out" / "index.html").read_text(encoding="utf-8")).tables[0]
    assert dict(zip(head[6:9], cells[6:9], strict=True)) == {
        "lambada\nlm-eval\n0-shot\nn = 9\nitems not on record\nacc, %": "25.00 \u00b1 12.50",
        "lambada\nlm-eval\n0-shot\nn = 9\nitems not on record\nperplexity": "40.13 \u00b1 1.5",
        "wikitext\nlm-eval\n0-shot\nn = 9\nitems not on record\nword_perplexity": "37.5",
    }
    assert head[9] == "hours"
    charts = {chart.name: chart for chart in score_charts(read_runs([folder]))}
    drawn = charts[picture("lambada, lm-eval, 0-shot, n = 9")]
    assert drawn.title == "lambada (lm-eval), acc in %"
    assert drawn.curves[0].y == pytest.approx([25])
    assert not charts[picture("wikitext, lm-eval, 0-shot, n = 9")].curves
    assert not [file for file in told["files"] if "wikitext" in file]


def test_published_lines_are_only_with_their_own_protocol(tmp_path):
    rows = [eval_row(0, **group) for group in GROUPS]
    [run] = read_runs([write_run(tmp_path / "run", rows)])
    lines = {chart.name: dict(chart.references) for chart in score_charts([run])}
    assert lines == {
        picture("hellaswag, completion, 0-shot, n = 401"): {"chance": 25} | published("completion"),
        picture("hellaswag, completion, 0-shot, n = 100"): {"chance": 25} | published("completion"),
        picture("hellaswag, harness, 0-shot, n = 401"): {"chance": 25} | published("harness"),
        picture("hellaswag, harness, 10-shot, n = 401"): {"chance": 25} | published("harness", 10),
        picture("continuation, continuation, 0-shot, n = 401"): {"chance": 25},
    }
    assert published("completion")["GPT-2 124M 29.55"] == pytest.approx(29.55)
    assert published("harness")["GPT-2 124M 31.14"] == pytest.approx(31.14)


def published(protocol, shots=0):
    percent = {entry.model: 100 * entry.acc_norm for entry in beside(protocol, shots)}
    return {f"{model} {value:.4g}": pytest.approx(value) for model, value in percent.items()}


def test_scores_are_drawn_with_their_standard_error(tmp_path):
    [run] = read_runs([write_run(tmp_path / "run", [eval_row(0, acc_norm=0.3, n=2101)])])
    [chart] = score_charts([run])
    [curve] = chart.curves
    assert (curve.low, curve.high) == (pytest.approx([29.0]), pytest.approx([31.0]))
    assert chart.curves[0].label == "run: 30.00 \N{PLUS-MINUS SIGN} 1.00"


def test_loss_is_averaged_as_the_slow_way_does(tmp_path):
    rows = curve(steps=500, every=100)
    rows[300]["loss"] = None  # a step that was skipped
    [run] = read_runs([write_run(tmp_path / "run", rows)])
    raw, line, points = loss_chart([run]).curves
    losses = [row["loss"] for row in rows if row["kind"] == "step" and row["loss"] is not None]
    assert raw.y == pytest.approx(losses)
    slow = [np.mean(losses[i - min(i, 9) : i + min(i, 9) + 1]) for i in range(len(losses))]
    assert line.y == pytest.approx(slow)
    assert list(points.x) == [step * BATCH for step in range(0, 501, 100)]


def test_the_loss_frame_shows_the_ends_of_all_runs(tmp_path):
    diverged = [step_row(step) | {"loss": 7.8} for step in range(1, 41)]
    runs = read_runs([write_run(tmp_path / "good", curve()), write_run(tmp_path / "bad", diverged)])
    chart = loss_chart(runs)
    assert chart.low < 3.1 < 7.8 <= chart.high
    assert loss_chart(runs[:1]).high < 7.8


def test_throughput_says_the_share_of_peak_only_where_it_is_known(tmp_path):
    rows = [row | {"mfu": None} for row in curve() if row["kind"] == "step"]
    runs = read_runs([write_run(tmp_path / "gpu", curve(speed=2e6)), write_run(tmp_path / "cpu", rows)])
    labels = [curve.label for curve in rate_charts(runs)[1].curves if curve.label]
    assert labels == ["gpu: median 2M, 40% of peak", "cpu: median 1M"]


def test_files(written):
    out, told, _ = written
    assert sorted(told["files"]) == sorted(map(str, out.iterdir()))
    assert {Path(file).name for file in told["files"]} == {
        "index.html",
        "loss.png",
        "front.png",
        picture("hellaswag, completion, 0-shot, n = 401") + ".png",
        picture("hellaswag, harness, 0-shot, n = 401") + ".png",
        "learning_rate.png",
        "throughput.png",
    }


def test_pictures_are_valid_and_not_empty(written):
    out, _, page = written
    pictures = [matplotlib.image.imread(file) for file in sorted(out.glob("*.png"))]
    for pixels in pictures:
        assert pixels.shape[:2] == (840, 1600)
        assert pixels[..., :3].std() > 0.02
        assert pixels[0, 0, :3] == pytest.approx([1, 1, 1])
    embedded = [matplotlib.image.imread(BytesIO(data)) for data in map(decoded, page.loads)]
    assert len(embedded) == len(pictures) == page.tags.count("noscript")
    for pixels in embedded:
        assert pixels[0, 0, 3] == 0
        assert pixels[..., 3].std() > 0.02


def decoded(address):
    kind, data = address.split(",")
    assert kind == "data:image/png;base64"
    return base64.b64decode(data, validate=True)


def test_the_page_loads_nothing(written):
    out, _, page = written
    text = (out / "index.html").read_text(encoding="utf-8")
    assert page.loads
    assert all(address.startswith("data:image/png;base64,") for address in page.loads)
    assert {"link", "iframe", "object", "form"}.isdisjoint(page.tags)
    assert "url(" not in text
    assert "@import" not in text
    assert "default-src 'none'" in text
    assert "script-src 'sha256-" in text
    assert sorted(set(page.links)) == [
        "#run-0",
        "#run-1",
        "#run-2",
        "../_stopped%24",
        "../baseline",
        "../rope",
    ]


def test_samples_are_the_last_ones_and_are_text(written):
    out, _, page = written
    assert page.samples == ["Once <upon>" + SAMPLE]
    assert "<script>alert" not in (out / "index.html").read_text(encoding="utf-8")


def test_the_table_says_what_the_facts_say(written):
    _, told, page = written
    head, *rows = page.tables[0]
    scores = ["acc, %", "acc_norm, %"]
    assert head == [
        *("run", "parameters", "tokens", "best\nvalidation\nloss", "at step", "bits\nper byte"),
        *(f"hellaswag\ncompletion\n0-shot\nn = 401\nitems not on record\n{name}" for name in scores),
        *(f"hellaswag\nharness\n0-shot\nn = 401\nitems not on record\n{name}" for name in scores),
        *("hours", "machine", "gptlab"),
    ]
    assert (
        [row[0] for row in rows] == [run["name"] for run in told["runs"]] == ["baseline", "rope", "_stopped$"]
    )
    assert rows[0][1:7] == [
        "1M",
        "163.8k",
        f"{told['runs'][0]['best_loss']:.4f}",
        "40",
        f"{told['runs'][0]['bits_per_byte']:.4f}",
        "21.00 \u00b1 2.04\nnot shown to be above chance (25 %)",
    ]
    near = "\nnot shown to be above chance (25 %)"
    assert rows[1][7:10] == ["31.00 \u00b1 2.31", f"22.00 \u00b1 2.07{near}", "32.00 \u00b1 2.33"]
    assert rows[0][8:10] == ["\u2013", "\u2013"], "a score that a run has not"
    assert rows[2][6:10] == ["\u2013"] * 4


def test_the_page_says_what_differs(written):
    _, told, page = written
    words = " ".join(page.words)
    assert told["notes"] == [
        "These runs differ in tokens: compare with care.",
        "_stopped$ is at step 20 of 40: its schedule has not ended.",
    ]
    assert all(note in words for note in told["notes"])
    assert page.tables[2] == [
        ["key", "baseline", "rope", "_stopped$"],
        ["model.position", "learned", "rope", ""],
    ]
    assert "command gptlab train 'my recipe.toml'" in words
    assert "GPT-3 125M 33.7, on all 10,042 items" in words


def test_facts_are_json(written):
    _, told, _ = written
    assert json.loads(json.dumps(told, allow_nan=False)) == told


def test_a_run_without_validation_and_files_still_reports(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "metrics.jsonl").write_text("".join(json.dumps(step_row(step)) + "\n" for step in (1, 2)))
    told = report([run], tmp_path / "out")
    page = Page((tmp_path / "out" / "index.html").read_text(encoding="utf-8"))
    assert page.tables[0][1] == [
        "run",
        "\u2013",
        "8.192k",
        "\u2013",
        "\u2013",
        "\u2013",
        "0.00",
        "\u2013",
        "\u2013",
    ]
    assert told["runs"][0]["best_loss"] is None
    assert {Path(file).name for file in told["files"]} == {
        "index.html",
        "loss.png",
        "learning_rate.png",
        "throughput.png",
    }
    assert told["notes"] == []


def test_a_run_that_has_only_been_validated_reports(tmp_path):
    told = report([write_run(tmp_path / "run", [val_row(0)])], tmp_path / "out")
    assert told["runs"][0]["best_step"] == 0
    assert told["runs"][0]["hours"] is None
    assert {Path(file).name for file in told["files"]} == {"index.html", "loss.png"}


def test_importing_report_imports_no_torch_and_drawing_no_pyplot(tmp_path):
    write_run(tmp_path / "run", [val_row(0)])
    code = f"""if True:
        import sys
        from pathlib import Path
        from gptlab.report.runs import report
        slow = {{"torch", "matplotlib", "tiktoken", "tokenizers", "pyarrow"}} & set(sys.modules)
        assert not slow, slow
        import matplotlib
        before = matplotlib.rcParams.copy()
        report([Path({str(tmp_path / "run")!r})], Path({str(tmp_path / "out")!r}))
        loaded = {{"torch", "matplotlib.pyplot"}} & set(sys.modules)
        assert not loaded, loaded
        assert matplotlib.rcParams.copy() == before
        """
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
