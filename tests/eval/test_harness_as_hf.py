"""Every request, option and argument of lm-evaluation-harness: as its own `hf` model on the same folder, or refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from gptlab.data.tokenizer import load_tokenizer
from gptlab.errors import GptlabError, TaskError
from gptlab.model.gpt import ModelConfig
from gptlab.publish.huggingface import export
from gptlab.sample import GeneratingGPT, sample_text

pytest.importorskip("lm_eval")
pytest.importorskip("transformers")

from gptlab import evaluate
from gptlab.eval import generation, harness_text
from gptlab.eval.model_arguments import SETTLED, Arguments

CONTEXT = 400
END = "<|endoftext|>"
DOCS = Path(__file__).parents[2] / "docs" / "lm_eval.md"
PAIRS = [
    ("the old", " miller"),
    ("", " abc"),
    ("", END + "x"),
    ("a  ", " b"),
    (f"{END}the", " x"),
    (f"abc{END}d", f"e{END}"),
    ("x" * 450, "yz"),
    ("x", "y" * (CONTEXT - 2)),
]
TEXTS = ["hello world", "", f"a{END}b", f"{END}x", "z" * 900]
PROMPTS = ["the old", "a grey heron followed", "rain and river " * 40, f"{END}ab"]
TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% if enable_thinking %}<think>{% endif %}{{ extra or '' }}{% endif %}"
)
TALK = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who?"}]

Folder = Callable[..., Path]


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    torch.manual_seed(3)
    shape = {"n_layer": 2, "n_head": 4, "n_embd": 64, "context": CONTEXT, "vocab_size": 257}
    model = GeneratingGPT(ModelConfig(**shape)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)  # so that no two tokens are near a tie
    folder = tmp_path_factory.mktemp("export") / "hf"
    export(model, load_tokenizer("bytes"), folder, verify=False)
    return folder


@pytest.fixture
def folder(exported, tmp_path) -> Folder:
    """Copies of the export, each with its files changed."""

    def make(**changes: dict[str, Any]) -> Path:
        copy = tmp_path / f"hf{len(list(tmp_path.iterdir()))}"
        shutil.copytree(exported, copy)
        for name, keys in changes.items():
            file = copy / f"{name}.json"
            file.write_text(json.dumps(json.loads(file.read_text()) | keys))
        return copy

    return make


def framed(*pieces: str) -> dict[str, Any]:
    """A post_processor: "text", and end-of-text around it."""
    special = {"SpecialToken": {"id": END, "type_id": 0}}
    text = {"Sequence": {"id": "A", "type_id": 0}}
    pair = [text, {"Sequence": {"id": "B", "type_id": 1}}]
    return {
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [text if piece == "text" else special for piece in pieces],
            "pair": pair,
            "special_tokens": {END: {"id": END, "ids": [256], "tokens": [END]}},
        }
    }


def ours(path: Path, **arguments: Any) -> Any:
    return evaluate._from_arguments(path=str(path), device="cpu", **arguments)


def theirs(path: Path, **arguments: Any) -> Any:
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=str(path), device="cpu", dtype="float32", batch_size=1, **arguments)


def requests(kind: Any, *arguments: tuple[Any, ...]) -> list[Any]:
    from lm_eval.api.instance import Instance

    return [Instance(kind, {}, each, 0, ("task", 0, 1)) for each in arguments]


def same_scores(first: Any, second: Any) -> list[float]:
    """Hold log-likelihoods of pairs and texts against each other."""
    asked = requests("loglikelihood", *PAIRS)
    mine, expected = first.loglikelihood(asked), second.loglikelihood(asked, disable_tqdm=True)
    for pair, (found, greedy), (number, wanted) in zip(PAIRS, mine, expected, strict=True):
        assert found == pytest.approx(number, abs=1e-4, rel=1e-5), pair
        assert greedy == wanted, pair
    asked = requests("loglikelihood_rolling", *[(text,) for text in TEXTS])
    totals = second.loglikelihood_rolling(asked, disable_tqdm=True)
    assert first.loglikelihood_rolling(asked) == pytest.approx(totals, abs=1e-4, rel=1e-5)
    return [found for found, _ in mine]


def written(model: Any, prompt: str, **options: Any) -> str:
    asked = requests("generate_until", (prompt, options))
    (text,) = model.generate_until(asked, disable_tqdm=True)
    return text


@pytest.fixture(autouse=True)
def calm(monkeypatch):
    """Let transformers and the harness warn of what is tried here on purpose."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


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
def test_model_arguments_that_change_numbers(exported, monkeypatch, arguments):
    if "max_length" in arguments:
        monkeypatch.setattr(__import__("sys").modules[__name__], "PAIRS", PAIRS[:-1])
    first, second = ours(exported, **arguments), theirs(exported, **arguments)
    same_scores(first, second)
    assert (first.prefix_token_id, first.max_length) == (second.prefix_token_id, second.max_length)
    for prompt in PROMPTS:
        assert written(first, prompt, max_gen_toks=12) == written(second, prompt, max_gen_toks=12)


GREEDY: list[dict[str, Any]] = [
    {},
    {"max_gen_toks": 24},
    {"max_new_tokens": 24},
    {"max_tokens": 9, "max_completion_tokens": 5},
    {"max_gen_toks": 24, "until": [""]},
    {"max_gen_toks": 24, "until": "o"},
    {"max_gen_toks": 24, "until": ["\x0b", ">>"]},
    {"max_gen_toks": 24, "do_sample": False, "temperature": 0.7, "top_k": 3, "top_p": 0.5},
    {"max_gen_toks": 24, "do_sample": False, "typical_p": 0.5, "min_p": 0.2},
    {"max_gen_toks": 24, "temperature": 0},
    {"max_gen_toks": 24, "repetition_penalty": 1.5},
    {"max_gen_toks": 24, "no_repeat_ngram_size": 2},
    {"max_gen_toks": 24, "min_new_tokens": 20},
    {"max_gen_toks": 24, "min_length": 20},
    {"max_gen_toks": 24, "num_beams": 1, "num_return_sequences": 1, "length_penalty": 1.0},
]


def test_generation_arguments_that_are_honoured(exported):
    first, second = ours(exported), theirs(exported)
    texts = set()
    for options in GREEDY:
        for prompt in PROMPTS:
            text = written(first, prompt, **options)
            assert text == written(second, prompt, **options), (options, prompt)
            texts.add(text)
    assert len(texts) > 20


@pytest.mark.parametrize(
    "said",
    [
        {"max_new_tokens": 5},
        {"max_new_tokens": 500},
        {"min_new_tokens": 30, "max_new_tokens": 40},
        {"eos_token_id": [256, 62]},
        {"eos_token_id": None},
        {"repetition_penalty": 1.3},
        {"do_sample": True, "top_p": 0.3, "temperature": 0.1},
        {"no_repeat_ngram_size": 1, "num_beams": 1},
    ],
    ids=str,
)
def test_what_a_folder_says_of_generation(folder, said):
    path = folder(generation_config=said)
    first, second = ours(path), theirs(path)
    for options in ({"max_gen_toks": 24}, {"max_new_tokens": 24, "repetition_penalty": 1.1}):
        for prompt in PROMPTS[:2]:
            assert written(first, prompt, **options) == written(second, prompt, **options), options


def test_a_folder_that_asks_for_what_is_not_honoured_is_refused(folder):
    model = ours(folder(generation_config={"num_beams": 4}))
    with pytest.raises(
        TaskError, match=r"generation_config.json: num_beams = 4 is not honoured; take it out"
    ):
        written(model, "a", max_gen_toks=4)
    assert written(model, "a", max_gen_toks=4, num_beams=1)
    path = folder()
    for content, problem in (
        ("[]", "no JSON object"),
        ('{"eos_token_id": "x"}', "eos_token_id = 'x': must be"),
    ):
        (path / "generation_config.json").write_text(content)
        with pytest.raises(TaskError, match=problem):
            ours(path)


def test_every_generation_argument_of_transformers_is_known_or_refused(exported):
    from transformers import GenerationConfig

    model = ours(exported)
    known = {*generation.HONOURED, *generation.PROCESSED}
    for name in GenerationConfig().to_dict():
        if name in known:
            continue
        with pytest.raises(
            TaskError, match=f"^{name} = 7: this generation argument is not honoured; "
        ) as told:
            written(model, "a", max_gen_toks=4, do_sample=True, temperature=1.0, **{name: 7})
        assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"seed": 1}, "seed = 1: .* seed the draws with gptlab lm-eval --seed"),
        ({"stop": ["a"]}, "stop = .* name stop sequences with until"),
        ({"max_length": 30}, "max_length = 30: .* say how much is written with max_gen_toks"),
        ({"max_gen_toks": 0}, "max_gen_toks = 0: must be at least 1 and below"),
        ({"max_gen_toks": CONTEXT}, f"max_gen_toks = {CONTEXT}: must be at least 1 and below"),
        ({"max_gen_toks": "9"}, "max_gen_toks = '9': must be int"),
        ({"do_sample": True}, "do_sample = True with temperature = 0: draws need one above 0"),
        ({"do_sample": "no"}, "do_sample = 'no': must be bool"),
        ({"temperature": None}, "temperature = None: must be int or float"),
        ({"until": [3]}, r"until = \[3\]: must be texts"),
        ({"until": {"a": 1}}, r"until = \{'a': 1\}: must be texts"),
        ({"repetition_penalty": -2}, "repetition_penalty = -2: transformers refuses it"),
        ({"top_k": -3, "do_sample": True, "temperature": 1.0}, "top_k = -3: must be at least 1"),
    ],
)
def test_generation_arguments_that_are_refused(exported, options, problem):
    with pytest.raises(GptlabError, match=problem) as told:
        written(ours(exported), "the", **options)
    assert "\n" not in str(told.value)


def test_draws_follow_the_seed_and_differ_between_repeats(exported):
    model, options = ours(exported), {"max_gen_toks": 12, "temperature": 1.0, "until": []}
    asked = requests("generate_until", *[("the old", options)] * 4)

    def seeded(seed: int) -> list[str]:
        torch.manual_seed(seed)
        return model.generate_until(asked)

    texts = seeded(1234)
    assert len(set(texts)) > 1
    assert texts == seeded(1234) != seeded(5)


def test_draws_are_of_the_likeliest_tokens_that_transformers_takes(exported):
    # top_k is 50 where nobody says, as for `hf`; one of 1 leaves the likeliest.
    plain = generation.plan({"temperature": 1.0}, generation.Defaults(), eos=END, context=CONTEXT)
    assert (plain.top_k, plain.top_p) == (50, None)
    model, second = ours(exported), theirs(exported)
    options = {"max_gen_toks": 12, "temperature": 5.0, "top_k": 1}
    assert written(model, "the old", **options) == written(second, "the old", **options)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"chat_template_args": {"extra": "so"}},
        {"enable_thinking": True, "think_end_token": ">"},
        {"enable_thinking": False},
        {"think_end_token": 62},
        {"think_end_token": "62"},
        {"think_end_token": "never there"},
    ],
    ids=str,
)
def test_chat_templates_and_thoughts(folder, arguments):
    path = folder(tokenizer_config={"chat_template": TEMPLATE})
    first, second = ours(path, **arguments), theirs(path, **arguments)
    answered = [*TALK, {"role": "assistant", "content": "I"}]
    prompt = first.apply_chat_template(TALK)
    assert prompt == second.apply_chat_template(TALK)
    assert first.apply_chat_template(answered, False) == second.apply_chat_template(answered, False)
    assert first.tokenizer_name == second.tokenizer_name
    assert first.chat_template(True) == second.chat_template(True) == TEMPLATE
    for text in (prompt, "the old"):
        assert written(first, text, max_gen_toks=20) == written(second, text, max_gen_toks=20)
    if not arguments.get("enable_thinking"):
        same_scores(first, second)


def test_a_template_that_knows_no_system(folder):
    refusal = "{% if m.role == 'system' %}{{ raise_exception('no') }}{% endif %}"
    template = "{% for m in messages %}" + refusal + "{{ m.content }}{% endfor %}"
    path = folder(tokenizer_config={"chat_template": template})
    assert ours(path).apply_chat_template(TALK) == theirs(path).apply_chat_template(TALK) == "Who?"


def test_chat_templates_that_cannot_be_had(exported, folder, monkeypatch):
    def refused(model: Any, asked: bool | str, problem: str) -> None:
        with pytest.raises(TaskError, match=f"^--apply_chat_template.*{problem}"):
            model.chat_template(asked)

    refused(ours(exported), True, "has no chat template; leave it out, or put one into")
    named = folder(tokenizer_config={"chat_template": TEMPLATE})
    refused(ours(named), "tool_use", "tool_use: a name is not honoured, and .* has no name")
    broken = ours(folder(tokenizer_config={"chat_template": "{{ 1 / 0 }}"}))
    with pytest.raises(TaskError, match=r"--apply_chat_template: .* template fails \(ZeroDivisionError"):
        broken.apply_chat_template(TALK)

    def absent(*_: Any, **__: Any) -> Any:
        raise ImportError

    monkeypatch.setattr(harness_text, "FolderText", absent)
    refused(ours(named), True, "chat templates need transformers")


def test_a_run_is_asked_as_its_export(exported):
    from gptlab.saved import load

    network, tokenizer = load(exported, "cpu")
    model = evaluate.Model(
        exported / "a run", network, evaluate.InFormat(network, "float32", torch.device("cpu")), tokenizer, CONTEXT,
        torch.device("cpu"),
    )  # fmt: skip
    run = evaluate._asked_by_harness(model)
    assert isinstance(run._text, harness_text.OwnText)
    second = theirs(exported)
    same_scores(run, second)
    for prompt in PROMPTS:
        assert written(run, prompt, max_gen_toks=12) == written(second, prompt, max_gen_toks=12)
    for call in (lambda: run.chat_template(True), lambda: run.apply_chat_template(TALK)):
        with pytest.raises(TaskError, match="a run has no chat template, as it is no Hugging Face folder"):
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
        ({"pretrained": "x"}, "path and pretrained say the same"),
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

    HarnessModel.open = evaluate._from_arguments
    for beside in ({"device": "cpu", "batch_size": "auto:4"}, {"batch_size": 8, "max_batch_size": 3}, {}):
        assert HarnessModel.create_from_arg_string(f"pretrained={exported}", beside).max_length == CONTEXT
    for device in ("mps", "cuda:1"):
        with pytest.raises(TaskError, match=f"--device {device}: must be cpu or cuda"):
            HarnessModel.create_from_arg_obj({"path": str(exported)}, {"device": device})


def test_thinking_is_for_tasks_that_write(exported):
    model = ours(exported, enable_thinking=True, think_end_token=">")
    with pytest.raises(TaskError, match="enable_thinking = True is for tasks that write text"):
        model.loglikelihood(requests("loglikelihood", ("a", "b")))


@pytest.mark.parametrize("pair", [("a", ""), ("", ""), (" ", "a"), ("", END)])
def test_a_request_with_nothing_to_score_is_refused(exported, pair):
    with pytest.raises(TaskError, match="request 1: is empty, so that no token of it can be scored"):
        ours(exported).loglikelihood(requests("loglikelihood", ("a", "b"), pair))


def test_an_ending_longer_than_the_context_is_refused(exported):
    with pytest.raises(
        TaskError, match=f"request 0: has 500 tokens to be scored, and .* context is {CONTEXT}"
    ):
        ours(exported).loglikelihood(requests("loglikelihood", ("a", "b" * 500)))


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


def test_a_prompt_begins_with_the_token_of_the_folder(folder):
    from gptlab.saved import load

    path = folder(tokenizer=framed("end", "text"))
    model, tokenizer = load(path, "cpu")
    begun = sample_text(model, tokenizer, "the old", max_tokens=6, temperature=0)
    ids = model.generate([256, *b"the old"], max_tokens=6, temperature=0, stop_id=256)[0, 8:].tolist()
    assert begun == [tokenizer.decode(ids[: ids.index(256)] if 256 in ids else ids)]


def test_hellaswag_of_our_own_begins_with_the_token_of_the_folder(folder, shared, tmp_path):
    from gptlab.eval import tasks
    from gptlab.eval.harness import evaluate as by_the_harness
    from gptlab.saved import load

    lines = shared("data/hellaswag_val_sample.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    file = tmp_path / "items" / "hellaswag.jsonl"
    file.parent.mkdir()
    file.write_text("".join(lines[:9]), encoding="utf-8")
    sums = []
    for path in (folder(), folder(tokenizer=framed("end", "text"))):
        model, tokenizer = load(path, "cpu")
        task = tasks.build("hellaswag", tokenizer=tokenizer, context=CONTEXT, file=file, protocol="harness")
        score = task.evaluate(model, device="cpu", quiet=True).accuracy
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
