"""Scores that lm-evaluation-harness asks for, and model arguments: as its own `hf` on the same folder, or refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from beside_hf import (
    CONTEXT,
    END,
    PAIRS,
    PROMPTS,
    TALK,
    Folder,
    copies,
    framed,
    ours,
    requests,
    same_scores,
    small_export,
    theirs,
    written,
)

from gptlab.errors import TaskError

pytest.importorskip("lm_eval")
pytest.importorskip("transformers")

from gptlab.actions import lm_eval, scored_model
from gptlab.eval import generation, harness_text
from gptlab.eval.model_arguments import SETTLED, Arguments

DOCS = Path(__file__).parents[2] / "docs" / "lm_eval.md"
# transformers and the harness warn of what is tried here on purpose.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    return small_export(tmp_path_factory.mktemp("export") / "hf")


@pytest.fixture
def folder(exported, tmp_path) -> Folder:
    return copies(exported, tmp_path)


@pytest.mark.parametrize("arguments", [{}, {"add_bos_token": True}, {"add_bos_token": False}], ids=str)
@pytest.mark.parametrize("frame", [(), ("end", "text"), ("text", "end"), ("end", "text", "end")], ids=str)
def test_what_the_tokenizer_puts_around_a_text(folder, monkeypatch, frame, arguments):
    path = folder(tokenizer=framed(*frame) if frame else {})
    second = theirs(path, **arguments)
    for installed in (True, False):
        if not installed:

            def absent(*_: Any, **__: Any) -> Any:
                raise ImportError

            monkeypatch.setattr(harness_text, "FolderText", absent)
        first = ours(path, **arguments)
        same_scores(first, second)
        for prompt in PROMPTS:
            assert written(first, prompt, max_gen_toks=12) == written(second, prompt, max_gen_toks=12)


def test_the_token_in_front_changes_the_numbers(folder):
    plain = same_scores(ours(path := folder()), theirs(path))
    begun = same_scores(ours(path := folder(tokenizer=framed("end", "text"))), theirs(path))
    assert abs(plain[0] - begun[0]) > 0.1


@pytest.mark.parametrize("arguments", [{"prefix_token_id": 65}, {"max_length": 50}], ids=str)
def test_model_arguments_that_change_numbers(exported, arguments):
    first, second = ours(exported, **arguments), theirs(exported, **arguments)
    same_scores(first, second, PAIRS[:-1] if "max_length" in arguments else PAIRS)
    assert (first.prefix_token_id, first.max_length) == (second.prefix_token_id, second.max_length)
    for prompt in PROMPTS:
        assert written(first, prompt, max_gen_toks=12) == written(second, prompt, max_gen_toks=12)


def test_a_run_is_asked_as_its_export(exported):
    from gptlab.loading import load

    network, tokenizer = load(exported, "cpu")
    cpu = torch.device("cpu")
    scored = scored_model.AutocastModel(network, "float32", cpu)
    model = scored_model.ScoredModel(exported / "a run", network, scored, tokenizer, CONTEXT, cpu)
    run = lm_eval.asked_by_harness(model)
    assert isinstance(run._text, harness_text.OwnText)
    second = theirs(exported)
    same_scores(run, second)
    for prompt in PROMPTS:
        assert written(run, prompt, max_gen_toks=12) == written(second, prompt, max_gen_toks=12)
    for call in (lambda: run.chat_template(True), lambda: run.apply_chat_template(TALK)):
        with pytest.raises(TaskError, match="a run has no chat template, as it is not a Hugging Face folder"):
            call()


def test_every_model_argument_of_hf_is_known_or_refused(exported):
    import inspect

    from lm_eval.models.huggingface import HFLM

    names = [*inspect.signature(HFLM.__init__).parameters][1:]
    for name in names:
        if (
            name in ("kwargs", "pretrained", "batch_size", "max_batch_size")
            or name in Arguments.__dataclass_fields__
        ):
            continue
        settled, remedy = SETTLED[name]
        for value in settled:
            assert ours(exported, **{name: value}).max_length == CONTEXT
        with pytest.raises(TaskError, match=f"^--model_args: {name} = 7 is not honoured; ") as told:
            ours(exported, **{name: 7})
        assert remedy in str(told.value)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"pretrained": "x"}, "path and pretrained mean the same"),
        ({"load_in_8bit": True}, "load_in_8bit is not known; write path=MODEL"),
        ({"max_length": CONTEXT + 1}, f"max_length = {CONTEXT + 1}: must be above 1 and at most"),
        ({"max_length": "9"}, "max_length = '9': must be int"),
        ({"prefix_token_id": 257}, "prefix_token_id = 257: the model's ids are 0 to 256"),
        ({"dtype": "auto"}, "dtype = auto: must be one of float32"),
        ({"enable_thinking": True}, "enable_thinking = True needs think_end_token"),
        ({"batch_size": "many"}, "--batch_size many: must be a number above 0 or auto"),
    ],
)
def test_model_arguments_that_are_refused(exported, arguments, problem):
    with pytest.raises(TaskError, match=problem):
        ours(exported, **arguments)


def test_devices_and_batches_of_the_command(exported):
    from gptlab.eval.harness import HarnessModel

    HarnessModel.open = lm_eval.from_arguments
    for beside in ({"device": "cpu", "batch_size": "auto:4"}, {"batch_size": 8, "max_batch_size": 3}, {}):
        assert HarnessModel.create_from_arg_string(f"pretrained={exported}", beside).max_length == CONTEXT
    for device in ("xla", "cuda:1"):
        with pytest.raises(TaskError, match=f"--device {device}: must be cpu, cuda or mps"):
            HarnessModel.create_from_arg_obj({"path": str(exported)}, {"device": device})


def test_thinking_is_for_tasks_that_write(exported):
    model = ours(exported, enable_thinking=True, think_end_token=">")
    with pytest.raises(TaskError, match="enable_thinking = True is for tasks that write text"):
        model.loglikelihood(requests("loglikelihood", ("a", "b")))


@pytest.mark.parametrize("pair", [("a", ""), ("", ""), (" ", "a"), ("", END)])
def test_a_request_with_nothing_to_score_is_refused(exported, pair):
    asked = requests("loglikelihood", ("a", "b"), pair)
    with pytest.raises(TaskError, match="task task, item 1: an ending is empty, so it has no token"):
        ours(exported).loglikelihood(asked)
    asked[1].task_name = None
    with pytest.raises(TaskError, match="request 1: an ending is empty"):
        ours(exported).loglikelihood(asked)


def test_an_ending_longer_than_the_context_loses_its_beginning_and_is_counted(exported):
    """As hf would score what is left of it; itself it fails."""
    ending = ("the old miller " * 50)[: CONTEXT + 100]
    first, second = ours(exported), theirs(exported)
    found = first.loglikelihood(requests("loglikelihood", ("a", ending), ("a", "b")))
    assert first.truncated == 1
    left = requests("loglikelihood", (ending[99], ending[100:]), ("a", "b"))
    expected = second.loglikelihood(left, disable_tqdm=True)
    assert [number for number, _ in found] == pytest.approx([n for n, _ in expected], abs=1e-4, rel=1e-5)
    with pytest.raises(AssertionError):
        second.loglikelihood(requests("loglikelihood", ("a", ending)), disable_tqdm=True)


def test_of_equal_likeliest_tokens_the_first_is_the_greedy_one(folder):
    from safetensors.torch import load_file, save_file

    path = folder()
    file = path / "model.safetensors"
    save_file(
        {name: torch.zeros_like(tensor) for name, tensor in load_file(file).items()}, file, {"format": "pt"}
    )
    asked = requests("loglikelihood", ("a", "\0"), ("a", "b"))
    first, second = ours(path).loglikelihood(asked), theirs(path).loglikelihood(asked, disable_tqdm=True)
    assert [greedy for _, greedy in first] == [greedy for _, greedy in second] == [True, False]


def test_hellaswag_of_our_own_begins_with_the_token_of_the_folder(folder, shared, tmp_path):
    from gptlab.eval import tasks
    from gptlab.eval.harness import evaluate as by_the_harness
    from gptlab.loading import load

    lines = shared("data/hellaswag_val_sample.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    file = tmp_path / "items" / "hellaswag.jsonl"
    file.parent.mkdir()
    file.write_text("".join(lines[:9]), encoding="utf-8")
    sums = []
    for path in (folder(), folder(tokenizer=framed("end", "text"))):
        model, tokenizer = load(path, "cpu")
        task = tasks.build(
            "hellaswag", tasks.Inputs(tokenizer=tokenizer, context=CONTEXT, file=file, protocol="harness")
        )
        score = task.evaluate(model, device="cpu", quiet=True)
        (line,) = by_the_harness(ours(path), ["hellaswag"], shots=0, limit=None, data=file.parent, keep=True)
        assert (line["acc"], line["acc_norm"]) == (score.acc, score.acc_norm)
        sums.append(score.rows[0]["log_likelihoods"])
    assert sums[0] != pytest.approx(sums[1], abs=1e-3)


def test_the_page_names_all_there_is():
    import argparse
    import inspect

    from lm_eval._cli.run import Run
    from lm_eval.api.instance import Instance, OutputType
    from lm_eval.models.huggingface import HFLM
    from transformers import GenerationConfig

    parser = argparse.ArgumentParser()
    run = Run.create(parser.add_subparsers())
    options = {f"--{action.dest}" for action in run._parser._actions if action.dest != "help"}
    names = {
        *options,
        *[*inspect.signature(HFLM.__init__).parameters][1:-1],
        *(name for name in GenerationConfig().to_dict() if name != "_from_model_config"),
        *generation.LENGTHS,
        *Instance.__dataclass_fields__,
        *OutputType.__args__,
    }
    page = DOCS.read_text()
    missing = sorted(name for name in names if f"`{name}`" not in page)
    assert not missing
