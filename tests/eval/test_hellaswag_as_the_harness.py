"""The harness protocol against the harness itself: texts, ids, log-likelihoods, choices, summary."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from causal_models import Called

from gptlab.data.load_tokenizer import load_tokenizer
from gptlab.eval.accuracy import multiple_choice
from gptlab.eval.hellaswag import harness, harness_texts, read
from gptlab.eval.tasks import Inputs, build

CONTEXT = 128  # short, so that some items are cut
SCORED = 192
MERGES = 1024  # few, so that the logits are small


@cache
def hellaswag_task(path: Path, items: int, pool: Path | None = None) -> Any:
    """lm-evaluation-harness's own task, over items spread through our file, and others to draw examples from."""
    import datasets
    import yaml
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks.hellaswag import utils

    lines = json_lines(path)
    text = Path(utils.__file__).with_name("hellaswag.yaml").read_text()
    config = yaml.safe_load(text.replace("!function utils.process_docs", "null"))
    del config["dataset_path"], config["tag"]
    config |= {
        "process_docs": utils.process_docs,
        "training_split": "train" if pool else None,
        "custom_dataset": lambda **_: {
            "validation": datasets.Dataset.from_list(lines[:: len(lines) // items]),
            "train": datasets.Dataset.from_list(json_lines(pool) if pool else []),
        },
    }
    task = ConfigurableTask(config=config)
    task.set_fewshot_seed(1234)  # as its evaluator does
    return task


def json_lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@cache
def harness_model(folder: Path, merges: int | None) -> Any:
    """lm-evaluation-harness's own model around a tiny random GPT-2, with GPT-2's first `merges`."""
    from lm_eval.models.huggingface import HFLM
    from transformers import GPT2Config, GPT2LMHeadModel, GPT2TokenizerFast

    vocabulary = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    rules = [
        tuple(rule.split()) for rule in (folder / "merges.txt").read_text(encoding="utf-8").splitlines()[1:]
    ]
    rules = [rule for rule in rules if rule][:merges]
    pieces = [piece for piece, id_ in vocabulary.items() if id_ < 256 + len(rules)]
    vocabulary = {piece: vocabulary[piece] for piece in pieces} | {"<|endoftext|>": len(pieces)}
    tokenizer = GPT2TokenizerFast(vocab=vocabulary, merges=rules, model_max_length=10**6)
    shape = {"n_layer": 2, "n_embd": 64, "n_head": 2, "n_positions": CONTEXT, "initializer_range": 0.1}
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(vocabulary), **shape)).eval()
    return HFLM(pretrained=model, tokenizer=tokenizer, device="cpu", batch_size=16)


@pytest.fixture
def sample(shared) -> Path:
    pytest.importorskip("lm_eval")
    return shared("data/hellaswag_val_sample.jsonl")


def test_texts_and_ids_of_every_item_are_the_harness_own(sample, shared):
    examples, encode = read(sample), load_tokenizer("gpt2").encode
    task, lm = hellaswag_task(sample, len(examples)), harness_model(shared("gpt2_bpe"), None)
    assert len(task.eval_docs) == len(examples) == 1152
    for doc, example in zip(task.eval_docs, examples, strict=True):
        context, endings = harness_texts(example)
        asked = [request.args for request in task.construct_requests(doc, task.fewshot_context(doc, 0))]
        assert [(context, f" {ending}") for ending in endings] == asked
        item = harness(example, encode)
        assert list(item.pairs) == [lm._encode_pair(*pair) for pair in asked]
        assert item.label == task.doc_to_target(doc)


@pytest.mark.parametrize(("shots", "pool"), [(10, 400), (3, 30), (2, 5)])
def test_prompts_with_shots_are_the_harness_own(sample, shared, tmp_path, shots, pool):
    # The pool holds some of the questions; the smallest one twice, so that it has to be drawn from again.
    asked = tmp_path / "asked.jsonl"
    drawn = tmp_path / "drawn.jsonl"
    lines = sample.read_text(encoding="utf-8").splitlines(keepends=True)
    asked.write_text("".join(lines[:96]), encoding="utf-8")
    drawn.write_text("".join([*lines[90 : 90 + pool], *lines[90 : 90 + pool // 2]]), encoding="utf-8")
    theirs = hellaswag_task(asked, 96, drawn)
    ours = build(
        "hellaswag",
        Inputs(
            tokenizer=load_tokenizer("gpt2"),
            context=1024,
            file=asked,
            fewshot=drawn,
            protocol="harness",
            shots=shots,
        ),
    )
    lm = harness_model(shared("gpt2_bpe"), None)
    assert (ours.shots, len(ours.items)) == (shots, 96)
    for item, doc in zip(ours.items, theirs.eval_docs, strict=True):
        requests = theirs.construct_requests(doc, theirs.fewshot_context(doc, shots))
        assert list(item.pairs) == [lm._encode_pair(*request.args) for request in requests]


def test_scores_choices_and_summary_are_the_harness_own(sample, shared):
    from lm_eval.evaluator import evaluate

    task, lm = hellaswag_task(sample, SCORED), harness_model(shared("gpt2_bpe"), MERGES)
    theirs = evaluate(
        lm=lm,
        task_dict={"tasks": {"hellaswag": task}, "groups": {}, "group_map": {}},
        bootstrap_iters=1,  # none would leave the standard errors out, though a mean's needs none
    )
    assert theirs is not None

    examples = read(sample)
    items = [harness(example, lm.tokenizer.encode) for example in examples[:: len(examples) // SCORED]]
    ours = multiple_choice(
        Called(lambda ids_BT: lm.model(ids_BT).logits),
        items,
        context=CONTEXT,
        batch_tokens=2048,
        device="cpu",
    )

    samples = sorted(theirs["samples"]["hellaswag"], key=lambda line: line["doc_id"])
    for row, item, line in zip(ours.rows, items, samples, strict=True):
        sums = [total for total, _ in line["filtered_resps"]]
        assert row["log_likelihoods"] == pytest.approx(sums, abs=1e-4)
        assert row["pred"] == np.argmax(sums)
        assert row["pred_norm"] == np.argmax(
            np.array(sums) / [len(ending) for ending in line["doc"]["choices"]]
        )
        assert row["label"] == item.label == line["target"]
        assert (row["pred"] == row["label"]) == line["acc"]
        assert (row["pred_norm"] == row["label"]) == line["acc_norm"]
    results = theirs["results"]["hellaswag"]
    assert (ours.acc, ours.acc_norm) == (results["acc,none"], results["acc_norm,none"])
    assert ours.stderr == pytest.approx(results["acc_stderr,none"], rel=1e-12)
    assert ours.stderr_norm == pytest.approx(results["acc_norm_stderr,none"], rel=1e-12)
    assert ours.n == SCORED
    assert 0 < ours.truncated < SCORED
    assert any(row["pred"] != row["pred_norm"] for row in ours.rows)
