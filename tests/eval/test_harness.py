"""lm-evaluation-harness itself, on task files made here: our model against its own `hf` model on the export."""

import json
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from gptlab.data.load_tokenizer import load_tokenizer
from gptlab.errors import TaskError
from gptlab.formats.huggingface.write import export
from gptlab.model.gpt import ModelConfig
from gptlab.sample import GeneratingGPT, stream

pytest.importorskip("lm_eval")

CONTEXT = 400
SHAPE = {"n_layer": 2, "n_head": 4, "n_embd": 64, "context": CONTEXT, "vocab_size": 257}
WORDS = "the old miller followed a grey heron down to river before rain came and saw it again".split()  # noqa: SIM905
TASKS = {
    "arc_easy": ("acc", "acc_norm"),
    "piqa": ("acc", "acc_norm"),
    "winogrande": ("acc",),
    "lambada_openai": ("acc", "perplexity"),
    "wikitext": ("word_perplexity", "byte_perplexity", "bits_per_byte"),
    "gsm8k": ("exact_match_strict-match", "exact_match_flexible-extract"),
}


def text(chance: random.Random, words: int) -> str:
    return " ".join(chance.choice(WORDS) for _ in range(words))


def rows(task: str, count: int, seed: int) -> list[dict[str, Any]]:
    """Items in the columns of the task's own data set."""
    chance = random.Random(f"{task}{seed}")
    some = lambda words: text(chance, words)  # noqa: E731
    make = {
        "arc_easy": lambda: {
            "question": some(8) + "?",
            "choices": {"text": [some(1 + n) for n in range(4)], "label": list("ABCD")},
            "answerKey": chance.choice("ABCD"),
        },
        "piqa": lambda: {"goal": some(6), "sol1": some(5), "sol2": some(7), "label": chance.randrange(2)},
        "winogrande": lambda: {
            "sentence": f"{some(4)} because the _ {some(4)}.",
            "option1": some(1),
            "option2": some(2),
            "answer": chance.choice("12"),
        },
        "lambada_openai": lambda: {"text": some(chance.choice([12, 120]))},
        "wikitext": lambda: {"page": some(190)},
        "gsm8k": lambda: {"question": some(5), "answer": f"{some(4)} #### {chance.randrange(9)}"},
        "hellaswag": lambda: {
            "activity_label": some(2),
            "ctx_a": some(6),
            "ctx_b": some(2),
            "endings": [some(3 + n) for n in range(4)],
            "label": str(chance.randrange(4)),
        },
        "truthfulqa_gen": lambda: {
            "question": some(4) + "?",
            "best_answer": some(3),
            "correct_answers": [some(3), some(2)],
            "incorrect_answers": [some(3), some(4)],
        },
        "truthfulqa_mc": lambda: {
            "question": some(4) + "?",
            "mc1_targets": {"choices": [some(3), some(2)], "labels": [1, 0]},
            "mc2_targets": {"choices": [some(3), some(2), some(4)], "labels": [1, 0, 1]},
        },
        "mmlu": lambda: {
            "question": some(7),
            "choices": [some(2) for _ in range(4)],
            "answer": chance.randrange(4),
            "subject": "a subject",
        },
    }[task]
    return [make() for _ in range(count)]


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    for task in TASKS:
        lines = rows(task, 3 if task in ("wikitext", "gsm8k") else 12, 0)
        (folder / f"{task}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "piqa").mkdir()
    train = "".join(json.dumps(line) + "\n" for line in rows("piqa", 9, 1))
    (folder / "piqa" / "train.jsonl").write_text(train)
    return folder


@pytest.fixture(scope="module")
def network() -> GeneratingGPT:
    torch.manual_seed(3)
    model = GeneratingGPT(ModelConfig(**SHAPE)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)  # so that choices are not near ties
    return model


@pytest.fixture(scope="module")
def ours(network) -> Any:
    from gptlab.eval.harness import HarnessModel

    def write(ids, **options):
        return (int(column) for column in stream(network, ids, **options))

    device = torch.device("cpu")
    return HarnessModel(network, load_tokenizer("bytes"), write, context=CONTEXT, device=device)


@pytest.fixture(scope="module")
def theirs(network, tmp_path_factory) -> Any:
    from lm_eval.models.huggingface import HFLM

    folder = tmp_path_factory.mktemp("export") / "hf"
    export(network, load_tokenizer("bytes"), folder)
    return HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=1, max_length=CONTEXT)


@pytest.fixture(scope="module")
def answers(ours, files) -> Any:
    """What our model is found to be worth."""
    from gptlab.eval.harness import evaluate

    lines = evaluate(ours, list(TASKS), shots=0, limit=None, data=files, keep=True)
    return {line["task"]: line for line in lines}


def by_the_harness(lm: Any, names: list[str], files: Path, shots: int, limit: int | None = None) -> Any:
    """What lm-evaluation-harness says by itself, but for our way to the files."""
    from lm_eval import simple_evaluate

    from gptlab.eval import harness, task_data
    from gptlab.eval.task_groups import members

    manager = harness._task_manager()
    single = [member for name in names for member in members(name, manager.task_index)]
    with task_data.redefined(single, files, shots) as specs:
        options = {"num_fewshot": shots, "limit": limit, "bootstrap_iters": 10}
        return simple_evaluate(lm, tasks=specs, task_manager=manager, **options)


def test_every_kind_of_task_gives_the_numbers_of_the_hf_model_on_the_export(answers, theirs, files):
    expected = by_the_harness(theirs, list(TASKS), files, shots=0)
    for task, metrics in TASKS.items():
        found = answers[task]
        for metric in metrics:
            key = metric.replace("exact_match_", "exact_match,") if task == "gsm8k" else f"{metric},none"
            assert found[metric] == pytest.approx(expected["results"][task][key], rel=1e-4), (task, metric)
            if "exact_match" in metric:  # its filters have names
                assert f"{metric}_stderr" in found
        assert (found["n"], found["shots"], found["protocol"]) == (
            expected["n-samples"][task]["effective"],
            expected["n-shot"][task],
            "lm-eval",
        )
        if "acc_norm" in metrics:
            samples = expected["samples"][task]
            assert found["items"]["acc_norm"] == [bool(sample["acc_norm"]) for sample in samples]
    assert answers["lambada_openai"]["truncated"] > 0


def test_a_line_has_what_makes_it_comparable(answers):
    line = answers["arc_easy"]
    assert (line["n"], line["version"], line["shots"]) == (12, 1.0, 0)
    assert 0 <= line["acc"] <= 1
    assert line["stderr"] == pytest.approx((line["acc"] * (1 - line["acc"]) / 11) ** 0.5)
    assert set(line) >= {"acc_norm", "stderr_norm", "lm_eval", "truncated"}
    assert json.loads(json.dumps(line)) == line


def test_shots_are_drawn_from_the_training_file(ours, theirs, files):
    from gptlab.eval import harness

    for shots, limit in ((2, 5), (2, None)):
        (found,) = harness.evaluate(ours, ["piqa"], shots=shots, limit=limit, data=files)
        expected = by_the_harness(theirs, ["piqa"], files, shots, limit)["results"]["piqa"]
        assert (found["acc"], found["shots"], found["n"]) == (expected["acc,none"], shots, limit or 12)
    with pytest.raises(
        TaskError, match=r"arc_easy.train.jsonl is missing; put the pool of its solved examples"
    ):
        list(harness.evaluate(ours, ["arc_easy"], shots=2, limit=None, data=files))


def test_writing_stops_where_the_hf_model_stops(ours, theirs):
    def written(lm: Any, prompt: str, until: list[str]) -> str:
        request = SimpleNamespace(args=(prompt, {"until": until, "max_gen_toks": 24}), task_name="t")
        return lm.generate_until([request], disable_tqdm=True)[0]

    assert written(ours, "it " * 200, []) == written(theirs, "it " * 200, []) == ""  # end-of-text at once
    for prompt in ("the old", "a grey heron followed", "rain and river " * 40):
        free = written(ours, prompt, [])
        assert free == written(theirs, prompt, [])
        for until in ([free[5]], [free[6:9]], ["\n\n", free[9:11], free[3:6]], ["never written"]):
            text = written(ours, prompt, until)
            assert text == written(theirs, prompt, until)
            assert (text == free) == (until == ["never written"])


def test_rolling_texts_of_any_length(ours, theirs):
    from lm_eval.api.instance import Instance

    texts = ["a", "the old miller", text(random.Random(1), 250)]
    requests = [Instance("loglikelihood_rolling", {}, (words,), 0) for words in texts]
    expected = theirs.loglikelihood_rolling(requests, disable_tqdm=True)
    assert ours.loglikelihood_rolling(requests) == pytest.approx(expected, rel=1e-5)


def test_more_than_the_context_cannot_be_written(ours):
    request = SimpleNamespace(args=("a", {"until": [], "max_gen_toks": CONTEXT}))
    with pytest.raises(
        TaskError, match=f"max_gen_toks = {CONTEXT}: must be at least 1 and below the model's context"
    ):
        ours.generate_until([request])


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        (
            ["arc_eazy"],
            'task arc_eazy: is neither gptlab\'s nor lm-evaluation-harness .*; did you mean "arc_easy"?',
        ),
        (["boolq"], r"boolq.jsonl is missing; put its items there \(split validation\)"),
        (["mmlu"], r"mmlu_abstract_algebra.jsonl is missing; put its items there \(split test\)"),
        (["squad_completion"], "task squad_completion: is code, or a group that defines tasks itself"),
    ],
)
def test_tasks_that_cannot_be_had_are_refused(ours, files, names, problem):
    from gptlab.eval.harness import evaluate

    with pytest.raises(TaskError, match=problem):
        list(evaluate(ours, names, shots=None, limit=None, data=files))


def test_a_file_with_the_wrong_columns_is_told_in_one_line(ours, tmp_path):
    from gptlab.eval.harness import evaluate

    (tmp_path / "piqa.jsonl").write_text('{"goal": "a", "sol1": "b", "label": 0}\n')
    with pytest.raises(TaskError, match=r"task piqa: lm-evaluation-harness cannot run it \(") as refused:
        list(evaluate(ours, ["piqa"], shots=None, limit=None, data=tmp_path))
    assert "\n" not in str(refused.value)


def test_hellaswag_by_the_harness_is_our_harness_protocol(ours, network, shared, tmp_path):
    from gptlab.eval import tasks
    from gptlab.eval.harness import evaluate

    lines = (
        shared("data/hellaswag_val_sample.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)[::48]
    )
    file = tmp_path / "hellaswag.jsonl"
    file.write_text("".join(lines), encoding="utf-8")
    (line,) = evaluate(ours, ["hellaswag"], shots=0, limit=None, data=tmp_path)
    task = tasks.build(
        "hellaswag",
        tasks.Inputs(tokenizer=load_tokenizer("bytes"), context=CONTEXT, file=file, protocol="harness"),
    )
    score = task.evaluate(network, device="cpu")
    assert (line["acc"], line["acc_norm"], line["n"]) == (score.acc, score.acc_norm, score.n)


SUITE = """
group: suite
task:
  - task: arc_easy
    fewshot_split: train
    num_fewshot: 3
  - group: doors
    num_fewshot: 1
  - task: sums
    num_fewshot: 2
"""
DOORS = """
group: doors
task: [first_doors, second_doors]
aggregate_metric_list:
  - metric: acc
    weight_by_size: true
metadata: {version: 7}
"""


def write(folder: Path, task: str, kind: str, count: int, pool: str) -> None:
    """Write items of a task, and a pool of solved examples, for --task-data."""
    (folder / task).mkdir(parents=True)
    for file, n, seed in ((folder / f"{task}.jsonl", count, 0), (folder / task / f"{pool}.jsonl", 30, 1)):
        file.write_text("".join(json.dumps(line) + "\n" for line in rows(kind, n, seed)))


@pytest.fixture
def suite(tmp_path, monkeypatch) -> Path:
    """Let the harness know a small suite; return a folder with its data."""
    from lm_eval.tasks import TaskManager
    from lm_eval.tasks.manager import TaskIndex

    from gptlab.eval import harness

    index, build, place = harness._task_manager().task_index, TaskIndex.build, tmp_path / "definitions"
    place.mkdir()
    (place / "suite.yaml").write_text(SUITE)
    (place / "doors.yaml").write_text(DOORS)
    for name, like in (("first_doors", "piqa"), ("second_doors", "piqa"), ("sums", "gsm8k")):
        (place / f"{name}.yaml").write_text(f"include: {index[like].yaml_path}\ntask: {name}\n")
    monkeypatch.setattr(TaskIndex, "build", lambda self, paths: {**index, **build(paths[1:])})
    manager = TaskManager(include_path=str(place))
    monkeypatch.setattr(harness, "_task_manager", lambda: manager)
    for task, kind, count in (
        ("arc_easy", "arc_easy", 12),
        ("first_doors", "piqa", 4),
        ("second_doors", "piqa", 12),
        ("sums", "gsm8k", 1),
    ):
        write(tmp_path / "data", task, kind, count, "train")
    return tmp_path / "data"


def test_a_suite_is_asked_with_its_own_shots_and_has_its_means(ours, theirs, suite):
    from gptlab.eval.harness import evaluate

    lines = list(evaluate(ours, ["suite"], shots=None, limit=None, data=suite, keep=True))
    assert [(line["task"], line["shots"], line["n"], line.get("group")) for line in lines] == [
        ("arc_easy", 3, 12, None),
        ("first_doors", 1, 4, "doors"),
        ("second_doors", 1, 12, "doors"),
        ("sums", 2, 1, None),
        ("doors", 1, 16, None),
    ]
    arc_easy, first, second, _, mean = lines
    for line in (arc_easy, first, second):
        expected = by_the_harness(theirs, [line["task"]], suite, line["shots"])["results"][line["task"]]
        assert (line["acc"], line["acc_norm"]) == (expected["acc,none"], expected["acc_norm,none"])
    assert mean["items"]["acc"] == first["items"]["acc"] + second["items"]["acc"]
    assert mean["acc"] == pytest.approx(sum(mean["items"]["acc"]) / 16)
    assert 0 < mean["stderr"] < first["stderr"]
    assert mean["version"] == "7"
    assert "acc_norm" not in mean
    more = evaluate(ours, ["doors"], shots=2, limit=2, data=suite)
    assert [(line["shots"], line["n"]) for line in more] == [(2, 2), (2, 2), (2, 4)]


def test_a_suite_that_cannot_run_whole_is_refused_before_anything_is_scored(ours, suite, monkeypatch):
    from gptlab.eval import harness

    monkeypatch.setattr(harness, "_run", None)
    with (suite.parent / "definitions" / "sums.yaml").open("a") as file:
        file.write("generation_kwargs: {num_beams: 4}\n")
    with pytest.raises(
        TaskError, match=r"task sums: num_beams = 4: this generation argument is not honoured"
    ):
        list(harness.evaluate(ours, ["suite"], shots=None, limit=None, data=suite))
    (suite / "sums" / "train.jsonl").unlink()
    with pytest.raises(TaskError, match=r"sums/train.jsonl is missing; put the pool of its solved examples"):
        list(harness.evaluate(ours, ["suite"], shots=None, limit=None, data=suite))


@pytest.mark.slow
def test_openllm_on_local_files(ours, tmp_path):
    from gptlab.eval import harness
    from gptlab.eval.task_groups import members

    for member in members("openllm", harness._task_manager().task_index):
        name = member.name
        kind = {
            "arc_challenge": "arc_easy",
            "truthfulqa_mc1": "truthfulqa_mc",
            "truthfulqa_mc2": "truthfulqa_mc",
        }
        mmlu = name.startswith("mmlu_")
        write(tmp_path, name, "mmlu" if mmlu else kind.get(name, name), 2, "dev" if mmlu else "train")
    lines = list(harness.evaluate(ours, ["openllm"], shots=None, limit=1, data=tmp_path))
    shots = {line["task"]: line["shots"] for line in lines if "group" not in line}
    assert shots == {
        "arc_challenge": 25,
        "hellaswag": 10,
        "truthfulqa_gen": 0,
        "truthfulqa_mc1": 0,
        "truthfulqa_mc2": 0,
        "winogrande": 5,
        "gsm8k": 5,
        "mmlu": 5,
    }
    parts = [line for line in lines if line.get("group") == "mmlu"]
    assert (len(parts), lines[-1]["task"], lines[-1]["n"]) == (57 + 4, "mmlu", 57)
    subjects = [line["acc"] for line in parts if line["n"] == 1]
    assert lines[-1]["acc"] == pytest.approx(sum(subjects) / 57)
