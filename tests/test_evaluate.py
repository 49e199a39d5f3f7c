"""`gptlab eval` and `gptlab lm-eval` on a run and on its export."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from small_files import task_files

from gptlab import cli
from gptlab.actions import eval as evaluate
from gptlab.actions import lm_eval, scored_model
from gptlab.actions.eval import Request
from gptlab.errors import ConfigError, GptlabError, TaskError
from gptlab.eval.tasks import SUITES
from gptlab.formats.huggingface.write import export
from gptlab.loading import find, load
from gptlab.runs.metrics import read_rows

pytestmark = pytest.mark.usefixtures("torch_settings")

ITEM = {"activity_label": "Baking", "ctx_a": "A cook opens the oven.", "ctx_b": "she", "ctx": "A cook. she"}
PIQA = {"goal": "open a door", "sol1": "turn the handle", "sol2": "sing", "label": 0}


@pytest.fixture(scope="module")
def run(tiny_recipe, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("evaluate") / "run"
    assert cli.main(["train", str(tiny_recipe), "--train.steps", "2", "--eval.tasks", "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def exported(run) -> Path:
    export(*load(run), run.parent / "hf", verify=False)
    return run.parent / "hf"


@pytest.fixture(scope="module")
def hellaswag(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("hellaswag") / "items.jsonl"
    lines = [
        ITEM | {"ctx_a": "A cook " + "x" * i, "endings": ["a", "bb", "ccc", "d" * (4 + i)], "label": i % 4}
        for i in range(9)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def piqa(tmp_path) -> Path:
    (tmp_path / "data").mkdir()
    lines = [PIQA | {"goal": "open " + "a door " * (1 + i), "label": i % 2} for i in range(6)]
    (tmp_path / "data" / "piqa.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path / "data"


def test_published_lines_stand_beside_their_own_protocol_only(run, hellaswag, capsys):
    evaluate.evaluate([run], Request(task="hellaswag", data=hellaswag))
    said = capsys.readouterr().out
    assert "GPT-2 124M acc 28.59 %, acc_norm 29.55 %" in said
    assert "31.14" not in said
    evaluate.evaluate([run], Request(task="hellaswag", data=hellaswag, protocol="harness"))
    said = capsys.readouterr().out
    assert "acc_norm 31.14 %" in said
    assert "29.55" not in said
    assert "GPT-3" not in said


MEASURED = """
import sys
from pathlib import Path
from gptlab.cli import main
code = main(sys.argv[1:])
[peak] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
print(peak.split()[1], file=sys.stderr)  # kB; getrusage would tell the parent's where that is larger
sys.exit(code)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_the_items(run, tmp_path):
    peaks = []
    for n in (300, 6000):
        lines = [
            ITEM | {"ctx_a": f"A cook {i} " + "opens the oven " * 20, "endings": list("abcd"), "label": i % 4}
            for i in range(n)
        ]
        file = tmp_path / f"{n}.jsonl"
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
        words = ["eval", str(run), "--task", "hellaswag", "--data", str(file)]
        done = subprocess.run([sys.executable, "-c", MEASURED, *words], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert f"{n} items" in done.stdout
        peaks.append(1024 * int(done.stderr.splitlines()[-1]))
    kept = 4000  # bytes of an item: the numbers that it has come to
    assert peaks[1] - peaks[0] < 5700 * kept


def test_shots_and_where_they_come_from(run, hellaswag, capsys):
    options = {"task": "hellaswag", "protocol": "harness", "data": hellaswag, "fewshot_data": hellaswag}
    facts = evaluate.evaluate([run], Request(**options, shots=2))
    assert (facts["shots"], facts["n"], facts["truncated"]) == (2, 9, 9)
    said = capsys.readouterr().out
    assert "2 shots, 9 items" in said
    assert "9 items were longer than the context of 32 and lost their beginning" in said
    assert "published" not in said
    with pytest.raises(TaskError, match="--shots 9: needs at least 10 examples to draw from"):
        evaluate.evaluate([run], Request(**options, shots=9))
    with pytest.raises(
        TaskError, match=r"llm\.c and build-nanogpt, whose protocol completion is, put none there"
    ):
        evaluate.evaluate([run], Request(task="hellaswag", data=hellaswag, shots=10))


def test_a_run_and_its_export_do_not_differ(run, exported, hellaswag, capsys):
    facts = evaluate.evaluate([run, exported], Request(task="hellaswag", data=hellaswag))
    first, second = facts["results"]
    assert (first["model"], second["model"]) == (str(run), str(exported))
    assert (first["acc"], first["acc_norm"]) == (second["acc"], second["acc_norm"])
    assert first["margin"] == pytest.approx(second["margin"], abs=1e-5)
    found = facts["comparison"]["hellaswag"]
    assert (found["acc"]["gained"], found["acc"]["lost"], found["acc"]["p"]) == (0, 0, 1.0)
    assert found["margin"]["difference"] == pytest.approx(0, abs=1e-5)
    said = capsys.readouterr().out
    assert "no difference is shown" in said
    assert said.count("published, on all 10,042 items, not on these: GPT-2 124M") == 1
    assert said.count("not shown to be above chance (25 %)") == 4
    assert said.endswith(
        "This compares two checkpoints and says nothing about their recipes: two seeds of one recipe differ too.\n"
    )


def test_two_losses_are_compared_window_by_window(run, exported, tiny_data, tmp_path, capsys):
    request = Request(task="loss", data=tiny_data, limit=320)
    facts = evaluate.evaluate([run, exported], request)
    found = facts["comparison"]["loss"]["loss"]
    assert (found["n"], found["difference"]) == (10, pytest.approx(0, abs=1e-6))
    first, second = facts["results"]
    assert first["items_sha256"] == second["items_sha256"]
    said = capsys.readouterr().out.splitlines()
    assert said[-2].startswith("loss: over the same 10 windows no difference is shown: ")
    assert said[-1].startswith("This compares two checkpoints")


def test_losses_over_other_windows_are_not_compared(run, tiny_recipe, tiny_data, tmp_path, monkeypatch):
    words = ["train", str(tiny_recipe), "--train.steps", "2", "--eval.tasks", "--model.context", "16"]
    assert cli.main([*words, "--out", str(tmp_path / "short")]) == 0
    monkeypatch.setattr(evaluate, "mean_loss", None)  # refused before the work
    problem = "reads windows of 32 tokens, .*short of 16, but losses compare only over the same ones"
    with pytest.raises(ConfigError, match=problem):
        evaluate.evaluate([run, tmp_path / "short"], Request(task="loss", data=tiny_data))


def test_each_model_is_opened_once(run, exported, tiny_data, monkeypatch):
    opened = []

    def counted(path):
        opened.append(path)
        return find(path)

    monkeypatch.setattr(scored_model, "find", counted)
    evaluate.evaluate([run, exported], Request(task="loss,continuation", data=tiny_data, limit=64))
    assert len(opened) == 2
    facts = evaluate.evaluate([run, run], Request(task="loss", data=tiny_data, limit=64))
    assert len(opened) == 4
    assert facts["comparison"]["loss"]["loss"]["difference"] == 0


@pytest.mark.parametrize("names", ["hellaswag,continuation", "hellaswag,loss"])
def test_a_wrong_input_is_told_before_the_work(run, hellaswag, monkeypatch, names):
    def evaluated(*_, **__):
        raise AssertionError("a task was scored")

    monkeypatch.setattr(evaluate.tasks.Task, "evaluate", evaluated)
    monkeypatch.setattr(evaluate, "mean_loss", evaluated)
    with pytest.raises(GptlabError, match=r"items\.jsonl/manifest\.json: cannot be read"):
        evaluate.evaluate([run], Request(task=names, data=hellaswag))


@pytest.mark.parametrize("name", ["file/x.jsonl", "folder", "x" * 300])
def test_samples_that_cannot_be_written_are_refused_before_the_work(
    run, hellaswag, tmp_path, monkeypatch, name
):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    monkeypatch.setattr(scored_model, "find", None)
    with pytest.raises(ConfigError, match=f"--samples .*{name[-6:]}: "):
        Request(task="hellaswag", data=hellaswag, samples=tmp_path / name)


def test_samples_make_their_folder(run, hellaswag, tmp_path):
    evaluate.evaluate([run], Request(task="hellaswag", data=hellaswag, samples=tmp_path / "new" / "x.jsonl"))
    assert len((tmp_path / "new" / "x.jsonl").read_text().splitlines()) == 9


def test_tasks_of_the_harness_from_local_files(run, exported, piqa, capsys):
    pytest.importorskip("lm_eval")
    facts = evaluate.evaluate([run, exported], Request(task="piqa", protocol="lm-eval", task_data=piqa))
    first, second = facts["results"]
    assert (first["task"], first["protocol"], first["n"], first["shots"]) == ("piqa", "lm-eval", 6, 0)
    assert {**first, "model": ""} == {**second, "model": ""}
    assert facts["comparison"]["piqa"]["acc_norm"]["n"] == 6
    answer = capsys.readouterr()
    assert "piqa, protocol lm-eval 0.4." in answer.out
    assert "it/s" not in answer.err  # none of its bars


def test_the_small_suite_on_one_model_and_on_two(run, exported, tmp_path, capsys):
    files = task_files(tmp_path / "files")
    request = Request(task="small", task_data=files)
    rows = len(read_rows(run / "metrics.jsonl"))
    facts = evaluate.evaluate([run], request)
    assert [result["task"] for result in facts["results"]] == list(SUITES["small"])
    assert {result["protocol"] for result in facts["results"]} == {"harness"}
    kept = read_rows(run / "metrics.jsonl")[rows:]
    assert [row["data"] for row in kept] == [f"{name}.jsonl" for name in SUITES["small"]]
    assert all(row["answer_bits_per_byte"] > 0 for row in kept)
    table = capsys.readouterr().out.splitlines()[-8:]
    assert table[0].split() == ["task", "score,", "%", "chance", "right", "answer,", "bits", "per", "byte"]
    assert [line.split(",")[0] for line in table[1:]] == list(SUITES["small"])

    facts = evaluate.evaluate([run, exported], request)
    assert list(facts["comparison"]) == list(SUITES["small"])
    for name, found in facts["comparison"].items():
        score = "acc" if name in ("lambada_openai", "blimp") else "acc_norm"
        assert found[score]["corrected_p"] == 1
        assert found["answer_bits_per_byte"]["difference"] == pytest.approx(0, abs=1e-5)
        assert ("margin" in found) == (score == "acc_norm")
    said = capsys.readouterr().out
    assert f"A is {run}, B is {exported}\n" in said
    assert "7 tasks were looked at, 14 differences in all: " in said
    assert "by acc " not in said  # the table says it


def test_the_small_suite_has_no_solved_examples_and_downloads_nothing(run, tmp_path):
    files = task_files(tmp_path / "files")
    with pytest.raises(TaskError, match="--shots 2: task small asks without solved examples"):
        evaluate.evaluate([run], Request(task="small", task_data=files, shots=2))
    (files / "hellaswag.jsonl").unlink()
    with pytest.raises(TaskError, match=r"hellaswag.jsonl is missing.*--protocol lm-eval"):
        evaluate.evaluate([run], Request(task="small", task_data=files))


def test_who_runs_a_task_that_the_harness_has_too(monkeypatch, tmp_path):
    monkeypatch.setattr(evaluate, "harness_module", lambda: SimpleNamespace(check_names=lambda names: None))
    names = "piqa,hellaswag,winogrande"
    asked = Request(task=names, task_data=tmp_path)
    assert (asked.by_gptlab, asked.by_lm_eval) == (["piqa", "hellaswag"], ["winogrande"])
    asked = Request(task=names)
    assert (asked.by_gptlab, asked.by_lm_eval) == (["hellaswag"], ["piqa", "winogrande"])
    asked = Request(task=names, task_data=tmp_path, shots=2, protocol="harness")
    assert (asked.by_gptlab, asked.by_lm_eval) == (["hellaswag"], ["piqa", "winogrande"])
    asked = Request(task=names, task_data=tmp_path, protocol="lm-eval")
    assert (asked.by_gptlab, asked.by_lm_eval) == ([], ["piqa", "hellaswag", "winogrande"])


def test_a_run_in_training_scores_the_suite(tiny_recipe, tmp_path):
    files = task_files(tmp_path / "files", 4)
    words = ["train", str(tiny_recipe), "--train.steps", "2", "--eval.tasks", "small", "continuation"]
    words += ["--eval.task-data", str(files), "--eval.every-steps", "2", "--eval.limit", "3"]
    assert cli.main([*words, "--out", str(tmp_path / "run")]) == 0
    rows = [row for row in read_rows(tmp_path / "run" / "metrics.jsonl") if row["kind"] == "eval"]
    assert [(row["step"], row["task"]) for row in rows] == [
        (step, task) for step in (0, 2) for task in (*SUITES["small"], "continuation")
    ]
    # As `gptlab eval` does afterwards.
    facts = evaluate.evaluate([tmp_path / "run"], Request(task="small", task_data=files, limit=3))
    for row, result in zip(rows[8:-1], facts["results"], strict=True):
        assert (row["items_sha256"], row["protocol"]) == (result["items_sha256"], result["protocol"])
        assert row["answer_bits_per_byte"] == pytest.approx(result["answer_bits_per_byte"], rel=1e-4)
    assert facts["results"][-1]["protocol"] == "harness, even sample"


def test_a_run_keeps_the_mean_of_a_group_and_not_its_parts(run, monkeypatch, capsys):
    line = {
        "protocol": "lm-eval",
        "lm_eval": "0",
        "version": 1,
        "shots": 5,
        "n": 3,
        "truncated": 0,
        "acc": 1.0,
    }
    lines = [line | {"task": "door_1", "group": "doors"}, line | {"task": "doors"}, line | {"task": "sums"}]
    harness = SimpleNamespace(check_names=lambda names: None, evaluate=lambda *_, **__: iter(lines))
    monkeypatch.setattr(evaluate, "harness_module", lambda: harness)
    monkeypatch.setattr(evaluate, "asked_by_harness", lambda model: None)
    before = len(read_rows(run / "metrics.jsonl"))
    facts = evaluate.evaluate([run], Request(task="suite"))
    assert [result["task"] for result in facts["results"]] == ["door_1", "doors", "sums"]
    assert [row["task"] for row in read_rows(run / "metrics.jsonl")[before:]] == ["doors", "sums"]
    said = capsys.readouterr().out
    assert (said.count("5 shots, 3 items"), said.count("kept in")) == (3, 2)


@pytest.fixture
def one_index(monkeypatch):
    """Let every manager of tasks use one index of the harness's 15,000 files, which takes seconds to make."""
    pytest.importorskip("lm_eval")
    from lm_eval.tasks import manager

    from gptlab.eval import harness

    index, build = harness._task_manager().task_index, manager.TaskIndex.build
    monkeypatch.setattr(manager.TaskIndex, "build", lambda self, paths: {**index, **build(paths[1:])})


def test_the_harness_own_command_line_knows_our_models(run, piqa, tmp_path, capsys, one_index):
    task = {
        "task": "doors",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"validation": str(piqa / "piqa.jsonl")}},
        "output_type": "multiple_choice",
        "validation_split": "validation",
        "doc_to_text": "{{goal}}",
        "doc_to_target": "label",
        "doc_to_choice": "{{[sol1, sol2]}}",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "doors.yaml").write_text(json.dumps(task))  # which is YAML, too
    words = ["--model", "gptlab", "--model_args", f"path={run},dtype=float32", "--tasks", "doors"]
    out = tmp_path / "out"
    assert (
        cli.main(["lm-eval", *words, "--include_path", str(tmp_path / "tasks"), "--output_path", str(out)])
        == 0
    )
    (written,) = out.rglob("results_*.json")
    result = json.loads(written.read_text())
    assert result["n-samples"]["doors"]["effective"] == 6
    assert "|doors" in capsys.readouterr().out
    assert 0 <= result["results"]["doors"]["acc,none"] <= 1


def test_model_arguments_that_cannot_be(capsys, one_index):
    words = ["--model", "gptlab", "--model_args", "path=nowhere", "--tasks", "piqa"]
    assert cli.main(["lm-eval", *words]) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("gptlab lm-eval: nowhere: no such folder")
    for arguments, problem in (({"pth": "x"}, "pth is not known"), ({}, "path is missing")):
        with pytest.raises(TaskError, match=f"--model_args: {problem}; write path=MODEL"):
            lm_eval.from_arguments(**arguments)


def test_without_the_harness_its_extra_is_named(run, monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "gptlab.eval.harness", None)
    monkeypatch.delattr("gptlab.eval.harness", raising=False)
    for words in (["eval", str(run), "--task", "arc_easy"], ["lm-eval", "ls"]):
        assert cli.main(words) == 1
        line = capsys.readouterr().err
        assert 'pip install "gptlab[eval]"' in line
        assert line.count("\n") == 1


@pytest.mark.parametrize(
    ("models", "options", "problem"),
    [
        ([], {"task": "hellaswag"}, "0 models: give one, or two to compare"),
        (["a", "b", "c"], {"task": "hellaswag"}, "3 models: give one"),
        (
            ["a", "b"],
            {"task": "hellaswag", "samples": Path("x")},
            "two models: --samples is for one at a time",
        ),
        (["a"], {"task": "hellaswag", "limit": 0}, "--limit 0: must be at least 1"),
        (
            ["a"],
            {"task": "hellaswag,continuation", "samples": Path("x")},
            "--samples: holds the items of one",
        ),
        (["a"], {"task": ","}, "--task: names no task"),
        (["a"], {"task": "small,piqa"}, "--task small,piqa: asks piqa twice; name it once"),
        (["a"], {"task": "small", "samples": Path("x")}, "--samples: holds the items of one"),
        (["a"], {"task": "small", "protocol": "lm-eval"}, "--task small: is gptlab's own"),
        (
            ["a"],
            {"task": "hellaswag,loss", "protocol": "lm-eval"},
            "--task loss: is gptlab's own, not lm-evaluation-harness's; leave --protocol out",
        ),
        (
            ["a"],
            {"task": "continuation", "protocol": "lm-eval"},
            "--task continuation: is gptlab's own",
        ),
    ],
)
def test_what_cannot_be_asked_is_refused(models, options, problem):
    with pytest.raises(ConfigError, match=problem):
        evaluate.evaluate([Path(model) for model in models], Request(**options))
