"""Sampling: the cache against none, the draws against their distribution."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gptlab.data.load_tokenizer import load_tokenizer
from gptlab.errors import CheckpointError, ConfigError
from gptlab.formats.huggingface.write import export
from gptlab.model.gpt import GPT, ModelConfig
from gptlab.model.packed import packed
from gptlab.sample import (
    PACKED_FROM,
    GeneratingGPT,
    SampleConfig,
    generate,
    kept_tokens,
    prompt_ids,
    sample_text,
    stream,
    stream_text,
)

VARIANTS = {
    "gpt2": {},
    "grouped": {"n_kv_head": 2},
    "llama": {"n_kv_head": 2, "norm": "rmsnorm", "position": "rope", "mlp": "swiglu", "bias": False},
    "alibi": {"n_kv_head": 2, "position": "alibi"},
    "post": {"norm_order": "post", "position": "none", "qk_norm": True, "logit_soft_cap": 5.0},
}
PROMPT = [5, 17, 3, 99, 42]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more only wait for each other in models of this size
    yield
    torch.set_num_threads(threads)


def a_gpt(kind: type[GPT] = GPT, *, vocab_size: int = 257, context: int = 16, **switches: Any) -> GPT:
    torch.manual_seed(7)
    config = ModelConfig(n_layer=2, n_head=4, n_embd=32, context=context, vocab_size=vocab_size, **switches)
    model = kind(config)
    with torch.no_grad():
        for parameter in model.parameters():
            # Far from the uniform start, so that the likeliest token is clear.
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


class Toy:
    """A model whose logits are the row of a table for the last token."""

    def __init__(self, table: Tensor, context: int = 8) -> None:
        self.table, self.context, self.vocab_size = table, context, table.shape[1]
        self.device = torch.device("cpu")
        self.restarts: list[tuple[list[list[int]], int]] = []
        self.reads = 0

    def reader(self, dtype: torch.dtype) -> "Toy":
        return self

    def restart(self, ids: Tensor, *, copies: int, room: int) -> Tensor:
        assert ids.shape[1] <= room <= self.context
        self.restarts.append((ids.tolist(), copies))
        return self.table[ids[:, -1]].repeat_interleave(copies, 0)

    def read(self, ids: Tensor) -> Tensor:
        self.reads += 1
        return self.table[ids[:, 0]]


def writes(successors: dict[int, int], vocab_size: int = 257) -> Toy:
    """A model that maps each token to the next one."""
    table = torch.zeros(vocab_size, vocab_size)
    for token, successor in successors.items():
        table[token, successor] = 50.0
    return Toy(table)


def greedy_without_cache(model: GPT, prompt: Sequence[int], n_tokens: int) -> list[int]:
    """Read the whole window for every token."""
    context, text = model.config.context, list(prompt)
    window = text[:] if len(text) <= context else text[-(context // 2) :]
    for _ in range(n_tokens):
        token = int(model(torch.tensor([window]))[0, -1].argmax())
        text.append(token)
        window = [*window, token]
        if len(window) > context:
            window = window[-(context // 2) :]
    return text


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("prompt_tokens", [1, 5, 16, 17, 40])
@pytest.mark.parametrize("new_tokens", [45, PACKED_FROM])
def test_cached_equals_uncached_and_the_window_slides(
    variant: str, prompt_tokens: int, new_tokens: int
) -> None:
    model = a_gpt(**VARIANTS[variant])
    prompt = torch.randint(257, (prompt_tokens,), generator=torch.Generator().manual_seed(1)).tolist()
    written = generate(model, prompt, max_tokens=new_tokens, temperature=0)
    assert written.tolist() == [greedy_without_cache(model, prompt, new_tokens)]


@pytest.mark.parametrize("variant", ["gpt2", "llama"])
@pytest.mark.parametrize("rows", [1, 3])
def test_greedy_text_is_that_of_transformers(variant: str, rows: int, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    model = a_gpt(GeneratingGPT, context=128, **VARIANTS[variant])
    export(model, load_tokenizer("bytes"), tmp_path / "export", verify=False)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "export")
    prompts = torch.randint(257, (rows, 9), generator=torch.Generator().manual_seed(1))
    options = {"do_sample": False, "max_new_tokens": PACKED_FROM, "eos_token_id": None}
    expected = theirs.generate(prompts, attention_mask=torch.ones_like(prompts), **options)
    assert torch.equal(generate(model, prompts, max_tokens=PACKED_FROM, temperature=0), expected)


def test_few_tokens_are_not_worth_packing(monkeypatch: pytest.MonkeyPatch) -> None:
    formats: list[torch.dtype] = []

    def noted(model: GPT, dtype: torch.dtype) -> GPT:
        formats.append(dtype)
        return packed(model, dtype)

    monkeypatch.setattr("gptlab.sample.packed", noted)
    for tokens, dtype in (
        (PACKED_FROM - 1, torch.float32),
        (PACKED_FROM, torch.float32),
        (1, torch.bfloat16),
    ):
        stream(a_gpt(), PROMPT, max_tokens=tokens, dtype=dtype)
    assert formats == [torch.float32, torch.bfloat16]


def test_rows_do_not_disturb_each_other() -> None:
    model = a_gpt(position="rope", n_kv_head=1)
    prompts = torch.tensor([PROMPT, PROMPT[::-1]])
    written = generate(model, prompts, max_tokens=30, temperature=0, samples=3)
    assert written.tolist() == [
        greedy_without_cache(model, row, 30) for row in prompts.tolist() for _ in range(3)
    ]


def test_a_prompt_is_read_once_for_all_samples() -> None:
    toy = writes({})
    generate(toy, PROMPT, max_tokens=3, samples=4)
    assert toy.restarts == [([PROMPT], 4)]


def test_the_window_is_rebuilt_from_half_a_context() -> None:
    toy = writes({token: token + 1 for token in range(100)})
    generate(toy, [0], max_tokens=13, temperature=0)
    # Eight tokens fit; the ninth starts over with the last four, of which it is one.
    assert toy.restarts == [([[0]], 1), ([[5, 6, 7, 8]], 1)]
    assert [kept_tokens(length, 8) for length in (1, 8, 9, 100)] == [1, 8, 4, 4]
    assert kept_tokens(2, 1) == 1


def test_a_context_of_one() -> None:
    model = a_gpt(context=1)
    assert generate(model, PROMPT, max_tokens=4, temperature=0).shape == (1, len(PROMPT) + 4)


def test_seeds() -> None:
    model = a_gpt()

    def written(seed: int | None) -> list[list[int]]:
        return generate(model, PROMPT, max_tokens=20, seed=seed, samples=3).tolist()

    assert written(1) == written(1)
    assert written(1) != written(2)
    assert written(None) != written(None)
    assert len({tuple(row) for row in written(1)}) == 3


def test_torchs_random_state_is_neither_used_nor_changed() -> None:
    model = a_gpt()
    torch.manual_seed(1)
    first = generate(model, PROMPT, max_tokens=10, seed=3)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert torch.equal(generate(model, PROMPT, max_tokens=10, seed=3), first)
    generate(model, PROMPT, max_tokens=10)
    assert torch.equal(torch.get_rng_state(), state)


def test_temperature_scales_the_distribution() -> None:
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, -30.0])
    toy, n = Toy(logits.expand(5, 5)), 20_000
    for temperature in (0.5, 1.0, 2.0):
        drawn = generate(toy, [0], max_tokens=1, temperature=temperature, samples=n, seed=1)[:, 1]
        probability = (logits / temperature).softmax(0)[:4]
        counts = drawn.bincount(minlength=5)[:4]
        chi_square = ((counts - n * probability) ** 2 / (n * probability)).sum()
        assert chi_square < 16.27  # three degrees of freedom, one chance in a thousand


def test_top_k_and_top_p_bound_what_is_drawn() -> None:
    toy = Toy(torch.tensor([0.5, 0.3, 0.15, 0.05]).log().expand(4, 4))
    drawn = generate(toy, [0], max_tokens=1, samples=2000, seed=1, top_k=3)[:, 1]
    assert set(drawn.tolist()) == {0, 1, 2}
    drawn = generate(toy, [0], max_tokens=1, samples=2000, seed=1, top_p=0.6)[:, 1]
    assert set(drawn.tolist()) == {0, 1}


@pytest.mark.parametrize("options", [{"top_k": 1}, {"top_p": 1e-12}, {"temperature": 1e-40}])
def test_narrow_draws_are_greedy(options: dict[str, float]) -> None:
    model = a_gpt()
    greedy = generate(model, PROMPT, max_tokens=20, temperature=0)
    assert torch.equal(generate(model, PROMPT, max_tokens=20, **options), greedy)


def test_a_row_ends_with_its_stop_token() -> None:
    toy = writes({1: 2, 2: 9, 9: 1, 5: 6, 6: 7, 7: 8, 8: 9})
    written = generate(toy, torch.tensor([[1], [5]]), max_tokens=20, temperature=0, stop_id=9)
    assert written.tolist() == [[1, 2, 9, 9, 9], [5, 6, 7, 8, 9]]
    assert generate(toy, [1], max_tokens=5, temperature=0).tolist() == [[1, 2, 9, 1, 2, 9]]


def test_stream_yields_the_columns_of_generate() -> None:
    model = a_gpt()
    columns = stream(model, PROMPT, max_tokens=12, samples=2, seed=5)
    first = next(columns)
    assert first.shape == (2,)
    assert first.is_inference()
    assert not torch.is_inference_mode_enabled()  # in between, the caller's mode holds
    whole = torch.stack([first, *columns], 1)
    assert torch.equal(whole, generate(model, PROMPT, max_tokens=12, samples=2, seed=5)[:, len(PROMPT) :])


def test_what_was_generated_can_be_trained_on() -> None:
    model = a_gpt()
    written = generate(model, PROMPT, max_tokens=4, seed=1)
    model(written).sum().backward()
    assert model.embed.weight.grad is not None


def test_bfloat16() -> None:
    model = a_gpt(position="rope", qk_norm=True)
    exact = generate(model, PROMPT, max_tokens=8, temperature=0, samples=2)
    half = generate(model, PROMPT, max_tokens=8, temperature=0, samples=2, dtype=torch.bfloat16)
    assert torch.equal(half, exact)


@pytest.mark.gpu
def test_cuda() -> None:
    model, prompt = a_gpt(n_kv_head=2), torch.tensor(PROMPT)
    exact = generate(model, prompt, max_tokens=40, temperature=0)
    model.to("cuda")
    assert torch.equal(generate(model, prompt, max_tokens=40, temperature=0).cpu(), exact)
    state = torch.cuda.get_rng_state()
    drawn = generate(model, prompt, max_tokens=9, samples=3, seed=1, top_k=50, top_p=0.9, stop_id=256)
    assert torch.equal(
        generate(model, prompt, max_tokens=9, samples=3, seed=1, top_k=50, top_p=0.9, stop_id=256), drawn
    )
    assert torch.equal(torch.cuda.get_rng_state(), state)


def test_generating_gpt_is_a_gpt() -> None:
    model = a_gpt(GeneratingGPT)
    assert isinstance(model, GeneratingGPT)
    assert list(model.state_dict()) == list(a_gpt().state_dict())
    assert model.context == 16
    written = model.generate(PROMPT, max_new_tokens=9, temperature=0)
    assert torch.equal(model.generate(PROMPT, max_tokens=9, temperature=0), written)
    with pytest.raises(ConfigError, match="are two names of one option; leave one out"):
        model.generate(PROMPT, max_new_tokens=9, max_tokens=9)
    assert torch.equal(written, generate(a_gpt(), PROMPT, max_tokens=9, temperature=0))
    assert torch.equal(written, model.generate(torch.tensor(PROMPT), 9, temperature=0))
    options = {"temperature": 0.9, "top_k": 40, "top_p": 0.8, "seed": 3, "stop_id": 9, "samples": 2}
    drawn = model.generate([PROMPT, PROMPT[::-1]], 9, dtype=torch.bfloat16, **options)
    again = generate(a_gpt(), [PROMPT, PROMPT[::-1]], max_tokens=9, dtype=torch.bfloat16, **options)
    assert torch.equal(drawn, again)


def test_texts() -> None:
    model, tokenizer = a_gpt(), load_tokenizer("bytes")
    options = {"max_tokens": 60, "temperature": 1.5, "seed": 11}
    (text,) = sample_text(model, tokenizer, "Hello", **options)
    assert text == "".join(stream_text(model, tokenizer, "Hello", **options))
    assert not text.startswith("Hello")
    several = sample_text(model, tokenizer, "Hello", samples=3, **options)
    assert len(set(several)) == 3
    config = SampleConfig(max_tokens=5, temperature=0)
    assert sample_text(model, tokenizer, "", **config.options()) == sample_text(
        model, tokenizer, "", max_tokens=5, temperature=0
    )


def test_an_empty_prompt_starts_a_document() -> None:
    tokenizer = load_tokenizer("bytes")
    assert prompt_ids(tokenizer, "") == [tokenizer.end_of_text]
    assert prompt_ids(tokenizer, "<|endoftext|>") == list(b"<|endoftext|>")


def chain(text: str, end: Sequence[int]) -> Toy:
    tokens = [256, *text.encode(), *end]
    return writes(dict(pairwise(tokens)))


def test_a_text_ends_at_the_end_of_text() -> None:
    tokenizer, toy = load_tokenizer("bytes"), chain("abc", [256])
    assert sample_text(toy, tokenizer, "", max_tokens=50, temperature=0) == ["abc"]
    assert toy.reads == 3  # and nothing after it
    assert list(stream_text(toy, tokenizer, "", max_tokens=50, temperature=0)) == ["a", "b", "c"]


def test_a_stream_never_splits_a_character() -> None:
    tokenizer = load_tokenizer("bytes")
    toy = chain("a\u00e9\U0001f642.", [256])
    assert list(stream_text(toy, tokenizer, "", max_tokens=50, temperature=0)) == [
        "a",
        "\u00e9",
        "\U0001f642",
        ".",
    ]
    # Half a character at the end is shown, since nothing more comes.
    assert list(stream_text(toy, tokenizer, "", max_tokens=2, temperature=0)) == ["a", "\ufffd"]
    half = chain("a", [0xC3, 256])
    assert list(stream_text(half, tokenizer, "", max_tokens=50, temperature=0)) == ["a", "\ufffd"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_tokens": 0}, r"max_tokens = 0: must be at least 1"),
        ({"samples": 0}, r"samples = 0: must be at least 1"),
        ({"top_k": 0}, r"top_k = 0: must be at least 1"),
        ({"samples": 1.5}, r"samples = 1.5: must be at least 1, a whole number"),
        ({"top_p": 0.0}, r"top_p = 0.0: must be above 0"),
        ({"top_p": 1.1}, r"top_p = 1.1: must be above 0 and at most 1"),
        ({"temperature": -1.0}, r"temperature = -1.0: must be 0"),
        ({"temperature": float("nan")}, r"temperature = nan"),
    ],
)
def test_options_out_of_range(options: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        stream(writes({}), [0], **({"max_tokens": 1} | options))


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([], r"shape \(0,\): must be one or several rows of ids"),
        ([[[1]]], r"shape \(1, 1, 1\)"),
        ([1, 257], r"id 257: the model's ids are 0 to 256"),
        ([1, -1], r"id -1: the model's ids are 0 to 256"),
        ([1.0], r"float32: must hold integers"),
        ("To be", r"a prompt of str: must be a list of ids, .*; make one of a text with tokenizer.encode"),
        ([[1, 2], [3]], r"a prompt of list: must be a list of ids, or lists of equal length"),
    ],
)
def test_bad_prompts(ids: list[int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        stream(writes({}), ids, max_tokens=1)


def test_a_diverged_model_is_refused() -> None:
    model = a_gpt()
    with torch.no_grad():
        model.norm.weight.fill_(torch.nan)
    with pytest.raises(CheckpointError, match="not finite"):
        generate(model, PROMPT, max_tokens=1)
