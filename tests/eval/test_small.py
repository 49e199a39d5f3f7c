"""The small tasks against lm-evaluation-harness's own run of them, over the same files, with its own model."""

import json
import math
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from small_files import ITEMS, KINDS, ROWS, SUBJECTS, rows, task_files, write

from gptlab.data.load_tokenizer import load_tokenizer
from gptlab.errors import TaskError
from gptlab.eval import published
from gptlab.eval.accuracy import Accuracy
from gptlab.eval.small import SMALL, read
from gptlab.eval.tasks import SUITES, Inputs, build, build_all
from gptlab.formats.huggingface.write import export
from gptlab.model.gpt import ModelConfig
from gptlab.sample import GeneratingGPT

CONTEXT = 200  # shorter than some prompts
SHAPE = {"n_layer": 2, "n_head": 4, "n_embd": 64, "context": CONTEXT, "vocab_size": 257}
PARTS = {"mmlu_continuation": SUBJECTS, "blimp": KINDS}
"""The tasks that lm-evaluation-harness has as a group, with the parts in the files here."""
NAMES = {"mmlu_continuation": "mmlu_{}_continuation", "blimp": "blimp_{}"}
"""Its names of the parts."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return task_files(tmp_path_factory.mktemp("tasks"))


@pytest.fixture(scope="module")
def network() -> GeneratingGPT:
    torch.manual_seed(3)
    model = GeneratingGPT(ModelConfig(**SHAPE)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)  # so that choices are not near ties
        model.embed.weight[ord(" ")] *= 4  # so that a space is often the likeliest
    return model


def inputs(folder: Path | None, **change: Any) -> Inputs:
    options = {"tokenizer": load_tokenizer("bytes"), "context": CONTEXT, "task_data": folder}
    return Inputs(**options | change)


@pytest.fixture(scope="module")
def ours(network, folder) -> dict[str, Accuracy]:
    return {
        task.name: task.evaluate(network, device="cpu", quiet=True)
        for task in build_all(["small"], inputs(folder))
    }


@pytest.fixture(scope="module")
def theirs(network, folder, tmp_path_factory) -> dict[str, Any]:
    """What lm-evaluation-harness says with its `hf` model on the export: samples and results by our tasks' names."""
    pytest.importorskip("lm_eval")
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    from gptlab.eval import harness, task_data
    from gptlab.eval.task_groups import members

    place = tmp_path_factory.mktemp("theirs")
    export(network, load_tokenizer("bytes"), place / "hf", verify=False)
    for task, parts in PARTS.items():
        column = "subject" if task == "mmlu_continuation" else "UID"
        for part in parts:
            own = [row for row in rows(task) if row[column] == part]
            write(place / "files" / f"{NAMES[task].format(part)}.jsonl", own)
    for task in ROWS.keys() - PARTS:
        write(place / "files" / f"{task}.jsonl", rows(task))
    asked = {task: [NAMES[task].format(part) for part in PARTS.get(task, ())] or [task] for task in ROWS}
    manager = harness._task_manager()
    single = [
        each for names in asked.values() for name in names for each in members(name, manager.task_index)
    ]
    lm = HFLM(pretrained=str(place / "hf"), device="cpu", dtype="float32", batch_size=1, max_length=CONTEXT)
    with harness._quiet(), task_data.redefined(single, place / "files", 0) as specs:
        found: Any = simple_evaluate(
            lm, tasks=specs, task_manager=manager, num_fewshot=0, bootstrap_iters=100
        )
    return {
        task: SimpleNamespace(
            samples=[
                sample
                for name in names
                for sample in sorted(found["samples"][name], key=lambda line: line["doc_id"])
            ],
            results=[found["results"][name] for name in names],
        )
        for task, names in asked.items()
    }


@pytest.mark.parametrize("name", SUITES["small"])
def test_every_item_is_scored_as_the_harness_scores_it(name, ours, theirs):
    mine, other = ours[name], theirs[name]
    assert mine.n == len(other.samples) == ITEMS
    for row, sample in zip(mine.rows, other.samples, strict=True):
        sums = [total for total, _ in sample["filtered_resps"]] if name != "lambada_openai" else [
            sample["filtered_resps"][0][0]
        ]  # fmt: skip
        assert row["log_likelihoods"] == pytest.approx(sums, abs=1e-4)
        assert (row["pred"] == row["label"]) == sample["acc"]
        if "acc_norm" in sample:
            assert (row["pred_norm"] == row["label"]) == sample["acc_norm"]
        else:
            assert row["pred_norm"] is row["margin"] is None
    assert mine.acc == pytest.approx(sum(sample["acc"] for sample in other.samples) / ITEMS)
    assert 0 < mine.acc < 1
    assert ("acc_norm" in other.samples[0]) == (mine.acc_norm is not None)
    if len(other.results) == 1:
        (result,) = other.results
        for metric, error in (("acc", "stderr"), ("acc_norm", "stderr_norm"), ("perplexity", None)):
            expected = result.get(f"{metric},none")
            assert getattr(mine, metric) == (pytest.approx(expected, rel=1e-4) if expected else None)
            if expected and error:
                assert getattr(mine, error) == pytest.approx(result[f"{metric}_stderr,none"])


def test_bits_per_byte_are_those_of_the_right_answer_and_the_space_before_it(ours):
    answers = {
        "arc_easy": lambda row: row["choices"]["text"][row["choices"]["label"].index(row["answerKey"])],
        "piqa": lambda row: row[f"sol{row['label'] + 1}"],
        "lambada_openai": lambda row: row["text"].split(" ")[-1],
        "mmlu_continuation": lambda row: row["choices"][row["answer"]],
        "blimp": lambda row: row["sentence_good"],
        "hellaswag": lambda row: row["endings"][int(row["label"])].replace("[header]", "").replace("  ", " "),
    }
    for name, answer in answers.items():
        bits = [
            -row["log_likelihoods"][row["label"]] / math.log(2) / (1 + len(answer(line).encode()))
            for row, line in zip(ours[name].rows, rows(name), strict=True)
        ]
        assert ours[name].answer_bits_per_byte == pytest.approx(sum(bits) / ITEMS), name
        spread = sum((each - sum(bits) / ITEMS) ** 2 for each in bits) / (ITEMS - 1) / ITEMS
        assert ours[name].answer_bits_per_byte_stderr == pytest.approx(math.sqrt(spread)), name


def test_the_error_of_perplexity_is_nearly_the_bootstraps(ours, theirs):
    (result,) = theirs["lambada_openai"].results
    # Both are estimates from twelve items.
    assert ours["lambada_openai"].perplexity == pytest.approx(result["perplexity,none"])
    assert ours["lambada_openai"].perplexity_stderr > 0


def test_the_words_of_each_task():
    def asked(name: str, **row: Any) -> tuple[str, tuple[str, ...], int]:
        question = SMALL[name].question(row)
        return question.context, question.endings, question.label

    choices = {"text": ["iron", "wood"], "label": ["1", "2"]}
    assert asked("arc_easy", question="What rusts?", choices=choices, answerKey="2") == (
        "Question: What rusts?\nAnswer:",
        (" iron", " wood"),
        1,
    )
    mmlu = {"question": " 1 + 1? ", "choices": ["1", "2"], "answer": 1, "subject": "abstract_algebra"}
    assert asked("mmlu_continuation", **mmlu) == (
        "The following are questions (with answers) about abstract algebra.\n\nQuestion: 1 + 1?\nAnswer:",
        (" 1", " 2"),
        1,
    )
    assert asked("lambada_openai", text="he saw  the heron") == ("he saw  the", (" heron",), 0)
    assert asked("blimp", sentence_good="A b.", sentence_bad="A c.", UID="x") == ("", (" A b.", " A c."), 0)


def test_the_harness_own_words_about_every_subject_of_mmlu():
    tasks = pytest.importorskip("lm_eval").tasks
    import yaml

    files = sorted((Path(tasks.__file__).parent / "mmlu" / "continuation").glob("mmlu_*.yaml"))
    assert len(files) == 57
    for file in files:
        said = yaml.safe_load(file.read_text(encoding="utf-8"))
        row = {"question": "x", "choices": ["y"], "answer": 0, "subject": said["dataset_name"]}
        context = SMALL["mmlu_continuation"].question(row).context
        assert context == said["description"] + "Question: x\nAnswer:"


def test_an_even_sample_has_the_first_items_of_each_part(tmp_path):
    lines = [
        {"sentence_good": f"{kind} {i}", "sentence_bad": "x", "UID": kind}
        for kind, count in (("a", 50), ("b", 30), ("c", 5))
        for i in range(count)
    ]
    write(tmp_path / "blimp.jsonl", lines)

    def asked(limit: int | None) -> list[str]:
        return [question.endings[0].strip() for question in read("blimp", tmp_path, limit).asked]

    assert Counter(text[0] for text in asked(None)) == {"a": 20, "b": 20, "c": 5}
    assert asked(None)[:21] == [f"a {i}" for i in range(20)] + ["b 0"]
    assert asked(7) == ["a 0", "a 1", "a 2", "b 0", "b 1", "c 0", "c 1"]
    assert len(asked(10**6)) == 85
    task = build("blimp", inputs(tmp_path))
    assert (task.protocol, len(task.items)) == ("harness, even sample", 45)
    assert build("blimp", inputs(tmp_path, limit=85)).protocol == "harness"


@pytest.mark.parametrize("name", [name for name in SMALL if name not in PARTS])
def test_of_a_task_without_parts_the_first_items_are_asked(name, folder):
    whole, some = read(name, folder), read(name, folder, 5)
    assert (some.asked, some.sampled) == (whole.asked[:5], False)
    assert some.sha256 != whole.sha256


@pytest.mark.parametrize("ending", ["json", "parquet", "split"])
def test_a_file_may_be_json_or_parquet_or_bear_the_name_of_its_split(ending, folder, tmp_path):
    for name in SMALL:
        lines = rows(name)
        if ending == "json":
            (tmp_path / f"{name}.json").write_text(json.dumps(lines))
        elif ending == "parquet":
            pyarrow = pytest.importorskip("pyarrow")
            pytest.importorskip("pyarrow.parquet").write_table(
                pyarrow.Table.from_pylist(lines), tmp_path / f"{name}.parquet"
            )
        else:
            write(tmp_path / name / f"{SMALL[name].split}.jsonl", lines)
        assert read(name, tmp_path).sha256 == read(name, folder).sha256


def test_the_suite_asks_hellaswag_as_the_harness_does(folder):
    tasks = build_all(["small"], inputs(folder, file=Path("other.jsonl")))
    assert [task.name for task in tasks] == list(SUITES["small"])
    assert {task.protocol for task in tasks} == {"harness"}
    assert all(task.source == folder / f"{task.name}.jsonl" for task in tasks)


def test_a_text_begins_with_the_token_that_begins_documents(folder):
    tokenizer = load_tokenizer("bytes")

    class Framed(type(tokenizer)):
        frame = [7, 8], list[int]()

    framed = Framed()
    blimp, arc = read("blimp", folder).asked[0], read("arc_easy", folder).asked[0]
    assert blimp.item(tokenizer).pairs[0][0] == [tokenizer.end_of_text]
    assert blimp.item(framed).pairs[0][0] == [8]
    assert arc.item(framed).pairs[0][0] == [7, 8, *arc.item(tokenizer).pairs[0][0]]


@pytest.mark.parametrize(
    ("name", "change", "problem"),
    [
        ("piqa", {"goal": None}, "field 'goal' is None, not text"),
        ("piqa", {"label": "1"}, "field 'label' is '1', not a number from 0 to 1"),
        ("piqa", {"label": True}, "field 'label' is True"),
        ("piqa", {"label": 2}, "field 'label' is 2"),
        ("mmlu_continuation", {"answer": -1}, "field 'answer' is -1, not a number from 0 to 3"),
        ("mmlu_continuation", {"choices": []}, r"field 'choices' is \[\], not a list of texts"),
        ("arc_easy", {"answerKey": "F"}, "field 'answerKey' is 'F', the labels are"),
        ("arc_easy", {"choices": ["a", "b"]}, "field 'choices' is .*, not texts and labels"),
        ("arc_easy", {"choices": {"text": ["a"], "label": ["A", "B"]}, "answerKey": "B"}, ".*of 1 texts"),
        ("lambada_openai", {"text": "  heron"}, "field 'text' has no word before its last one"),
        ("blimp", {"UID": 3}, "field 'UID' is 3, not text"),
    ],
)
def test_a_broken_row_is_refused_by_its_place(name, change, problem, tmp_path):
    lines = rows(name)
    write(tmp_path / f"{name}.jsonl", [lines[0], lines[1] | change])
    with pytest.raises(
        TaskError, match=rf"{name}\.jsonl item 1: {problem}.*; write the file as load_dataset"
    ):
        read(name, tmp_path)


def test_what_else_cannot_be_read_is_refused_in_a_line(tmp_path):
    with pytest.raises(
        TaskError, match="piqa: reads a local file and downloads none; write it with datasets'"
    ):
        read("piqa", None)
    with pytest.raises(TaskError, match=r"nowhere: no such folder"):
        read("piqa", tmp_path / "nowhere")
    with pytest.raises(TaskError, match=r"piqa\.jsonl is missing; put its items there \(split validation\)"):
        read("piqa", tmp_path)
    with pytest.raises(TaskError, match="small: reads 7 local files and downloads none"):
        build_all(["small"], inputs(None))
    for content, problem in {
        b"": "holds no item",
        b"[1]": "a row is no JSON object",
        b"{": "cannot be read",
        b"\xff": "cannot be read",
    }.items():
        (tmp_path / "piqa.jsonl").write_bytes(content)
        with pytest.raises(TaskError, match=problem) as refused:
            read("piqa", tmp_path)
        assert str(refused.value).isprintable()
    write(tmp_path / "blimp.jsonl", rows("blimp")).rename(tmp_path / "blimp.parquet")
    with pytest.raises(TaskError, match=r"blimp\.parquet: cannot be read"):
        read("blimp", tmp_path)
    (tmp_path / "hellaswag.parquet").touch()
    with pytest.raises(TaskError, match="HellaSwag is read from JSON"):
        build("hellaswag", inputs(tmp_path))
    write(tmp_path / "piqa.jsonl", [{"goal": "x"}])
    with pytest.raises(TaskError, match="item 0: field 'sol1' is missing"):
        read("piqa", tmp_path)


def test_published_shares_are_of_tasks_by_their_names():
    assert published.ORDERED_AT_150M.keys() & SMALL.keys() == SMALL.keys() - {"blimp", "lambada_openai"}
