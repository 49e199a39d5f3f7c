"""Texts that lm-evaluation-harness asks for, and chats: as its own `hf` on the same folder, or refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from beside_hf import (
    CONTEXT,
    END,
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

from gptlab.errors import GptlabError, TaskError
from gptlab.sample import sample_text

pytest.importorskip("lm_eval")
pytest.importorskip("transformers")

from gptlab.eval import generation, harness_text

TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% if enable_thinking %}<think>{% endif %}{{ extra or '' }}{% endif %}"
)
# transformers and the harness warn of what is tried here on purpose.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    return small_export(tmp_path_factory.mktemp("export") / "hf")


@pytest.fixture
def folder(exported, tmp_path) -> Folder:
    return copies(exported, tmp_path)


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
        ("[]", "not a JSON object"),
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
        ({"max_length": 30}, "max_length = 30: .* set the length with max_gen_toks"),
        ({"max_gen_toks": 0}, "max_gen_toks = 0: must be at least 1 and below"),
        ({"max_gen_toks": CONTEXT}, f"max_gen_toks = {CONTEXT}: must be at least 1 and below"),
        ({"max_gen_toks": "9"}, "max_gen_toks = '9': must be int"),
        ({"do_sample": True}, "do_sample = True with temperature = 0: sampling needs one above 0"),
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

    refused(ours(exported), True, "has no chat template; leave it out, or add one to")
    named = folder(tokenizer_config={"chat_template": TEMPLATE})
    refused(ours(named), "tool_use", "tool_use: a name is not honoured, and .* has no name")
    broken = ours(folder(tokenizer_config={"chat_template": "{{ 1 / 0 }}"}))
    with pytest.raises(TaskError, match=r"--apply_chat_template: .* template fails \(ZeroDivisionError"):
        broken.apply_chat_template(TALK)

    def absent(*_: Any, **__: Any) -> Any:
        raise ImportError

    monkeypatch.setattr(harness_text, "FolderText", absent)
    refused(ours(named), True, "chat templates need transformers")


def test_a_prompt_begins_with_the_token_of_the_folder(folder):
    from gptlab.loading import load

    path = folder(tokenizer=framed("end", "text"))
    model, tokenizer = load(path, "cpu")
    begun = sample_text(model, tokenizer, "the old", max_tokens=6, temperature=0)
    ids = model.generate([256, *b"the old"], max_new_tokens=6, temperature=0, stop_id=256)[0, 8:].tolist()
    assert begun == [tokenizer.decode(ids[: ids.index(256)] if 256 in ids else ids)]
