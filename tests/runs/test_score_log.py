"""Scores of `gptlab eval` in the run's own record: what report and card then tell, and what the run does with them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gptlab import cli
from gptlab.actions import eval as evaluate
from gptlab.eval import hellaswag
from gptlab.report.page_folder import file_name
from gptlab.runs import checkpoint, metrics
from gptlab.runs.history import read_metrics, read_runs
from gptlab.runs.metrics import MetricsLog, read_rows
from gptlab.runs.score_log import score_log_of
from gptlab.storage import file_sha256

pytestmark = pytest.mark.usefixtures("torch_settings")

STEP = "step_00000012"


@pytest.fixture
def run(finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run in the folder that commands are typed in."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(finished_run, "run"))


@pytest.fixture
def items(tmp_path: Path) -> Path:
    lines = [
        {"activity_label": "Baking", "ctx_a": "A cook " + "x" * i, "ctx_b": "she", "ctx": "A cook " + "x" * i}
        | {"endings": ["a", "bb", "ccc", "d" * (4 + i)], "label": i % 4}
        for i in range(9)
    ]
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path / "items.jsonl"


def gptlab(*words: object) -> dict[str, Any]:
    """Run a command as it is typed, and return what it writes for programs."""
    assert cli.main([*map(str, words), "--json", "answer.json"]) == 0
    return json.loads(Path("answer.json").read_text())


def kept(run: Path) -> list[dict[str, Any]]:
    return [row for row in read_rows(run / "metrics.jsonl") if "by" in row]


def best(run: Path) -> int:
    folder = checkpoint.pointed(run / "best")
    assert folder is not None
    return checkpoint.step_of(folder)


def test_what_is_measured_later_is_in_report_and_card(
    run: Path, items: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = gptlab("eval", run, "--task", "hellaswag", "--data", items)
    assert "\n  kept in run/metrics.jsonl, for report and model card\n" in capsys.readouterr().out
    (row,) = kept(run)
    assert (row["kind"], row["step"], row["by"]) == ("eval", best(run), "gptlab eval")
    assert (row["tokens"], row["data"], row["dtype"]) == (256 * best(run), "items.jsonl", "float32")
    (trained, *_) = (row for row in read_rows(run / "metrics.jsonl") if row["kind"] == "eval")
    assert row.keys() - trained.keys() == {"dtype", "data", "by"}
    assert not row["official"]
    assert {key: value for key, value in facts.items() if key != "model"}.items() <= row.items()

    told = gptlab("report", run, "--out", "report")["runs"][0]["scores"]
    assert [(each["task"], each["acc_norm"]) for each in told if each["task"] == "hellaswag"] == [
        ("hellaswag", facts["acc_norm"])
    ]
    page = Path("report/index.html").read_text()
    assert f"{100 * facts['acc_norm']:.2f} \N{PLUS-MINUS SIGN} {100 * facts['stderr_norm']:.2f}" in page
    called = f"hellaswag completion 0-shot n = 9 {row['items_sha256']}"
    assert Path(f"report/{file_name(called)}.png").is_file()

    gptlab("export", run, "out", "--no-verify")
    card = Path("out/README.md").read_text()
    assert f"| hellaswag | completion | 0 | 9, items {row['items_sha256'][:8]} of items.jsonl | 25 | " in card
    assert "model-index" not in card, "somebody's items have no place on the hub"


def test_the_row_is_of_the_checkpoint_that_was_asked(run: Path, items: Path) -> None:
    earlier = run / "checkpoints" / "step_00000008"  # while the run is at 12
    gptlab("eval", earlier, run / "checkpoints" / STEP, "--task", "hellaswag", "--data", items)
    assert [(row["step"], row["tokens"]) for row in kept(run)] == [(8, 2048), (12, 3072)]
    assert [row["step"] for row in read_metrics(run)["eval"] if row["task"] == "hellaswag"] == [8, 12]


def test_of_two_models_each_keeps_its_own(run: Path, items: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gptlab("export", run, "run/export", "--no-verify")  # inside, and yet none of its checkpoints
    shutil.copytree(run, "other")
    gptlab("eval", run, "other", "--task", "hellaswag", "--data", items, "--limit", 3)
    assert [len(kept(Path(name))) for name in ("run", "other")] == [1, 1]
    assert kept(run)[0]["n"] == 3
    capsys.readouterr()
    gptlab("eval", "run/export", "--task", "hellaswag", "--data", items)
    assert "kept in" not in capsys.readouterr().out
    assert len(kept(run)) == 1


def test_loss_is_no_score(run: Path, tiny_data: Path) -> None:
    gptlab("eval", run, "--task", "loss", "--data", tiny_data, "--limit", 200)
    assert kept(run) == []


def test_other_items_are_another_score(run: Path, tiny_data: Path, shared: Callable[[str], Path]) -> None:
    """The same task on other text does not take the place of what was measured in training; the same text does."""
    (own,) = (row for row in read_metrics(run)["eval"] if row["step"] == best(run))
    shutil.copytree(tiny_data, "elsewhere")
    gptlab("eval", run, "--task", "continuation", "--data", "elsewhere", "--limit", 7)
    (again,) = (row for row in read_metrics(run)["eval"] if row["step"] == best(run))
    assert (again["data"], again["by"]) == ("elsewhere", "gptlab eval"), "the same text, wherever it lies"
    assert again["items_sha256"] == own["items_sha256"]
    text = shared("data/tinyshakespeare.txt").read_text()[:40_000]
    Path("play.txt").write_text(text)
    assert cli.main(["data", "prepare", "play.txt", "more/elsewhere", "--tokenizer", "bytes"]) == 0
    gptlab("eval", run, "--task", "continuation", "--data", "more/elsewhere", "--limit", 3)
    gptlab("eval", run, "--task", "continuation", "--data", "elsewhere", "--limit", 3)
    both = [row for row in read_metrics(run)["eval"] if row["step"] == best(run) and row["n"] == 3]
    assert [row["data"] for row in both] == ["elsewhere", "elsewhere"], "of one name, and not the same"
    assert len({row["items_sha256"] for row in both}) == 2


def test_as_many_items_as_all_are_not_all(
    run: Path, items: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only the published file's own bytes make items official, whatever their number."""
    monkeypatch.setattr(hellaswag, "VALIDATION_ITEMS", 9)
    monkeypatch.setattr(evaluate, "VALIDATION_ITEMS", 9)
    assert not gptlab("eval", run, "--task", "hellaswag", "--data", items)["official"]
    assert "published, on all 9 items, not on these: GPT-2 124M" in capsys.readouterr().out
    gptlab("export", run, "out", "--no-verify")
    assert "model-index" not in Path("out/README.md").read_text()
    monkeypatch.setitem(hellaswag.SHA256, "val", file_sha256(items))
    facts = gptlab("eval", run, "--task", "hellaswag", "--data", items)
    assert facts["official"]
    said = capsys.readouterr().out
    assert "\n  official items\n" in said
    assert "published, on all 9 items: GPT-2 124M" in said
    gptlab("export", run, "again", "--no-verify")
    card = Path("again/README.md").read_text()
    assert f"items_sha256: {facts['items_sha256']}" in card
    assert "| hellaswag | completion | 0 | 9, official items | 25 | " in card


def test_solved_examples_of_another_pool_make_another_score(run: Path, items: Path) -> None:
    lines = items.read_text().splitlines(keepends=True)
    Path("pool.jsonl").write_text("".join(lines[::-1]))
    words = ("eval", run, "--task", "hellaswag", "--data", items, "--protocol", "harness", "--shots", 2)
    for pool in (items, "pool.jsonl"):
        gptlab(*words, "--fewshot-data", pool)
    found = [row for row in read_metrics(run)["eval"] if row["shots"] == 2]
    assert len({row["items_sha256"] for row in found}) == len(found) == 2


def test_a_score_is_kept_although_its_samples_cannot_be_written(
    run: Path, items: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full")
    words = ["eval", str(run), "--task", "hellaswag", "--data", str(items), "--samples", "/dev/full"]
    assert cli.main(words) == 1
    error = "gptlab eval: --samples /dev/full: cannot be written (No space left on device); choose another\n"
    assert capsys.readouterr().err.endswith(error)
    assert len(kept(run)) == 1


def test_tasks_of_the_harness_with_what_else_they_measure(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    (tmp_path / "tasks").mkdir()
    lines = [{"text": "A cook opens " + "the door " * i + "oven"} for i in range(1, 7)]
    file = tmp_path / "tasks" / "lambada_openai.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    facts = gptlab(
        "eval", run, "--task", "lambada_openai", "--protocol", "lm-eval", "--task-data", tmp_path / "tasks"
    )
    (row,) = kept(run)
    assert (row["task"], row["protocol"], row["data"]) == ("lambada_openai", "lm-eval", "tasks")
    assert (row["perplexity"], row["version"]) == (facts["perplexity"], facts["version"])
    shown = f"{facts['perplexity']:.4g} \N{PLUS-MINUS SIGN} {facts['perplexity_stderr']:.4g}"
    gptlab("report", run, "--out", "report")
    page = Path("report/index.html").read_text()
    assert shown in page
    assert ">nan" not in page
    gptlab("export", run, "out", "--no-verify")
    (line,) = (line for line in Path("out/README.md").read_text().splitlines() if "lambada" in line)
    told = f"6, items {row['items_sha256'][:8]} of tasks"
    assert f"| lambada_openai | lm-eval {row['lm_eval']} | 0 | {told} | unknown |" in line
    assert line.endswith(f"| \N{EN DASH} | perplexity {shown} |")
    file.write_text(file.read_text().replace("cook", "cock"))  # under the same name, as many
    gptlab(
        "eval", run, "--task", "lambada_openai", "--protocol", "lm-eval", "--task-data", tmp_path / "tasks"
    )
    assert (
        len({each["items_sha256"] for each in read_metrics(run)["eval"] if each["task"] == row["task"]}) == 2
    )


@pytest.mark.parametrize("full", [False, True])
def test_a_record_that_cannot_be_written_costs_no_result(
    run: Path, items: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, full: bool
) -> None:
    record = run / "metrics.jsonl"
    before = record.read_bytes()
    if full:
        monkeypatch.setattr(metrics.storage, "free_bytes", lambda folder: 4096)
    else:
        record.rename(run / "aside")
        record.mkdir()
    facts = gptlab("eval", run, "--task", "hellaswag", "--data", items)
    assert facts["n"] == 9
    reason = "No space left on device" if full else "Is a directory"
    assert f"\n  not kept in run/metrics.jsonl: {reason}\n" in capsys.readouterr().out
    assert (record if full else run / "aside").read_bytes() == before


def test_what_the_run_took_back_meanwhile_is_not_kept(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    score = {"task": "piqa", "protocol": "lm-eval", "shots": 0, "n": 5, "acc": 0.5}
    late, early = (score_log_of(run, run / "checkpoints" / STEP) for _ in range(2))
    assert late is not None
    assert early is not None
    with MetricsLog(run / "metrics.jsonl") as log:
        log.write("event", event="resume", step=12)
    early.keep(score, None)
    with MetricsLog(run / "metrics.jsonl") as log:
        log.write("event", event="rollback", step=8)
    late.keep(score, None)
    first, second = capsys.readouterr().out.splitlines()
    assert first == "  kept in run/metrics.jsonl, for report and model card"
    assert second == "  not kept in run/metrics.jsonl: the run has gone back to before step 12 meanwhile"


def test_the_run_goes_on_as_if_nothing_had_been_added(run: Path, items: Path, tiny_recipe: Path) -> None:
    """The best checkpoint stays what it was, and each evaluation of the recipe is made once."""
    words = ("train", tiny_recipe, "--out", run, "--eval.tasks", "continuation", "hellaswag")
    words = (*words, "--eval.hellaswag-file", items, "--train.steps", 20)
    gptlab("eval", run / "checkpoints" / STEP, "--task", "hellaswag", "--data", items, "--limit", 5)
    facts = gptlab(*words)
    rows = [row for row in read_rows(run / "metrics.jsonl") if row["kind"] == "eval" and row["step"] == 12]
    assert sorted((row["task"], row["n"], "by" in row) for row in rows) == [
        ("continuation", 7, False),
        ("hellaswag", 5, True),
        ("hellaswag", 7, False),  # the recipe's own, although the task was on record already
    ]
    losses = {row["step"]: row["loss"] for row in read_rows(run / "metrics.jsonl") if row["kind"] == "val"}
    del losses[0]
    assert facts["best"]["loss"] == min(losses.values())


def test_an_imported_model_keeps_scores_too(run: Path, items: Path) -> None:
    """So that a published model stands beside a run in a report."""
    gptlab("export", run, "export", "--no-verify")
    gptlab("import", "export", "imported", "--no-verify")
    gptlab("eval", "imported", "--task", "hellaswag", "--data", items)
    assert [row["step"] for row in kept(Path("imported"))] == [0]
    assert read_runs([Path("imported")])[0].metrics["eval"][0]["n"] == 9
    told = gptlab("report", run, "imported", "--out", "report")["runs"]
    assert [each["task"] for each in told[1]["scores"]] == ["hellaswag"]
    gptlab("export", "imported", "again", "--no-verify")
    card = Path("again/README.md").read_text()
    assert " of items.jsonl | 25 | " in card
    assert "## Time" not in card
