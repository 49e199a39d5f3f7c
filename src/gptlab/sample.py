"""Text from a model, token by token, with a key/value cache.

A prompt is read once, whatever the number of samples. When a text outgrows the context its window slides: the
cache is made anew from the last half context, since learned positions cannot be shifted.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, Required, TypedDict, Unpack

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from gptlab.data.tokenizer import Tokenizer
from gptlab.errors import CheckpointError, ConfigError
from gptlab.machine.memory import in_parts
from gptlab.model.attention import LayerCache
from gptlab.model.gpt import GPT
from gptlab.model.in_format import attention_dtype, in_format
from gptlab.model.packed import packed

# New tokens from which on packing pays in float32; it takes as long as about 20 of them save (124M parameters).
PACKED_FROM = 64
MOST_SAMPLES = 65_536  # of which each holds memory from the first token on


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """Texts that are written during training, to be read by people."""

    prompts: tuple[str, ...] = ()
    """How the texts begin; an empty prompt starts a document, and no prompt at all writes none."""
    max_tokens: int = 48
    """Tokens of each text."""
    temperature: float = 0.8
    """What the logits are divided by; 0 takes the likeliest token."""
    top_k: int | None = 50
    """Draw from the likeliest tokens only, this many of them; None is all."""

    def options(self) -> "SampleOptions":
        """Return them as `generate` takes them."""
        return {
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "top_k": self.top_k,
            "seed": 0,  # always the same draws, so that texts of different steps can be compared
        }


class SampleOptions(TypedDict, total=False):
    """The options of `stream`, for those who pass them on."""

    max_tokens: Required[int]
    temperature: float
    top_k: int | None
    top_p: float | None
    seed: int | None
    stop_id: int | None
    samples: int
    dtype: torch.dtype
    unknown: Sequence[int] | None


class Reader(Protocol):
    """A model and the cache of what it has read; reading returns the logits of the token that follows."""

    context: int
    """Longest text, in tokens."""
    vocab_size: int
    """Entries of the vocabulary."""
    device: torch.device
    """Where the weights are."""

    def restart(
        self, ids: Int[Tensor, "rows time"], *, copies: int, room: int
    ) -> Float[Tensor, "copied_rows vocab"]:
        """Forget everything, read `ids`, and go on with each row `copies` times, up to `room` tokens long."""
        ...

    def read(self, ids: Int[Tensor, "rows 1"]) -> Float[Tensor, "rows vocab"]:
        """Read one more token in every row."""
        ...


class Readable(Protocol):
    """A model that is not ours and brings its own cache."""

    def reader(self, dtype: torch.dtype) -> Reader:
        """Return a reader that has read nothing, and multiplies in a number format."""
        ...


class GeneratingGPT(GPT):
    """A GPT that writes: `model.generate(ids, max_tokens=100)`."""

    unknown_ids: Sequence[int] = ()
    """Ids that its tokenizer has not, which only fill up the vocabulary; they are never drawn."""

    @property
    def context(self) -> int:
        """Longest text, in tokens."""
        return self.config.context

    def generate(
        self, ids: Tensor | Sequence[int], **options: Unpack[SampleOptions]
    ) -> Int[Tensor, "rows time"]:
        """Return the prompts with their continuations, a row a sample; see `gptlab.sample.stream`.

        Who writes many texts spares each the preparation of the weights: `model = packed(model, dtype)`.
        """
        return generate(self, ids, **options)


class GPTReader:
    """Our own model and its layers' caches."""

    def __init__(self, model: GPT, dtype: torch.dtype) -> None:
        self.context, self.vocab_size = model.config.context, model.config.vocab_size
        self.device = model.embed.weight.device
        self._model = model
        self._dtype = dtype
        self._cache: list[LayerCache] = []

    def restart(self, ids: Tensor, *, copies: int, room: int) -> Tensor:
        rows, length = ids.shape
        once = self._model.new_cache(rows, room if copies == 1 else length, self._dtype)
        logits = self._next_logits(ids, once)
        if copies == 1:
            self._cache = once
            return logits
        self._cache = self._model.new_cache(rows * copies, room, self._dtype)
        for layer, copied in zip(once, self._cache, strict=True):
            copied.append(*(part.repeat_interleave(copies, 0) for part in layer.read(self._dtype)))
        return logits.repeat_interleave(copies, 0)

    def read(self, ids: Tensor) -> Tensor:
        return self._next_logits(ids, self._cache)

    def _next_logits(self, ids: Tensor, cache: list[LayerCache]) -> Tensor:
        # The logits of a whole prompt would be larger than everything else together.
        with in_format(attention_dtype(self.device, self._dtype), self.device):
            return self._model.head(self._model.hidden(ids, cache)[:, -1:])[:, 0]


def kept_tokens(length: int, context: int) -> int:
    """Return how many of a text's last tokens are read: all, or half a context once it outgrew one."""
    return length if length <= context else max(1, context // 2)


def stream(
    model: GPT | Readable,
    ids: Tensor | Sequence[int],
    *,
    max_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    stop_id: int | None = None,
    samples: int = 1,
    dtype: torch.dtype = torch.float32,
    unknown: Sequence[int] | None = None,
    adjust: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Iterator[Int[Tensor, " rows"]]:
    """Return an iterator over new tokens, one of every row at a time, without touching torch's random state.

    Args:
        model: ours, or one that brings its own cache.
        ids: a prompt, or a row for each of several of equal length; of one longer than the context only the
            end is read (`kept_tokens`).
        max_tokens: the most tokens that follow.
        temperature: what the logits are divided by; 0 takes the likeliest token.
        top_k: draw from the k likeliest tokens; None is from all.
        top_p: draw from the likeliest tokens that together reach this probability; None is from all.
        seed: of the draws; None is another one every time.
        stop_id: the token that ends a row, which then repeats it; the iterator ends with the last row.
        samples: rows for each prompt, which stand together.
        dtype: what matrices are multiplied in, by copies of the weights; the cache is in it, too.
        unknown: ids that are never drawn; None is those that the model says its tokenizer has not.
        adjust: makes, of the ids that were read and the model's logits, those that a token is chosen by.

    Raises:
        ConfigError: an option out of its range, or a prompt that is empty or has ids outside the vocabulary.
        CheckpointError: logits that are not finite, as those of a model that has diverged.

    Source: Fan et al. (2018), https://arxiv.org/abs/1805.04833, sec. 5.1 for top-k; Holtzman et al. (2020),
    https://arxiv.org/abs/1904.09751, sec. 3.1 for top-p.
    """
    _check_options(max_tokens, temperature, top_k, top_p, samples)
    reader = _reader(model, dtype, max_tokens)
    prompts = _check_prompts(ids, reader.vocab_size).to(reader.device)
    generator = torch.Generator(reader.device)
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    left_out = getattr(model, "unknown_ids", ()) if unknown is None else unknown
    left_out_ids = torch.tensor(left_out, dtype=torch.long, device=reader.device)
    drawn = partial(draw, temperature=temperature, top_k=top_k, top_p=top_p, generator=generator)

    def choose(texts: Tensor, logits: Tensor) -> Tensor:
        logits = adjust(texts, logits) if adjust else logits
        return drawn(logits.index_fill(-1, left_out_ids, -torch.inf) if len(left_out_ids) else logits)

    return _columns(reader, prompts, choose, max_tokens, stop_id, samples)


def _reader(model: GPT | Readable, dtype: torch.dtype, max_tokens: int) -> Reader:
    pays = dtype != torch.float32 or max_tokens >= PACKED_FROM
    ready = packed(model, dtype) if isinstance(model, nn.Module) and pays else model
    return GPTReader(ready, dtype) if isinstance(ready, GPT) else ready.reader(dtype)


def generate(
    model: GPT | Readable, ids: Tensor | Sequence[int], **options: Unpack[SampleOptions]
) -> Int[Tensor, "rows time"]:
    """Return the prompts with their continuations, a row a sample; options and errors as in `stream`.

    Where memory runs out, the samples are written in halves; their draws are then others.
    """
    seed, stop_id = options.get("seed"), options.get("stop_id")

    def some(numbers: Sequence[int]) -> Tensor:
        own = seed + numbers[0] if seed is not None and numbers else seed
        part: SampleOptions = {**options, "samples": len(numbers), "seed": own}
        columns = torch.stack(list(stream(model, ids, **part)), 1)
        return columns.unflatten(0, (-1, len(numbers)))

    parts = [rows for _, rows in in_parts(some, range(options.get("samples", 1)))]
    width = max(part.shape[-1] for part in parts)  # one ends with its last row
    padded = [nn.functional.pad(part, (0, width - part.shape[-1]), value=stop_id) for part in parts]
    columns = torch.cat(padded, 1).flatten(0, 1)
    prompts = torch.as_tensor(ids).to(columns)
    prompts = prompts.reshape(-1, prompts.shape[-1]).repeat_interleave(options.get("samples", 1), 0)
    return torch.cat((prompts, columns), 1)


def stream_text(
    model: GPT | Readable, tokenizer: Tokenizer, prompt: str, **options: Unpack[SampleOptions]
) -> Iterator[str]:
    """Yield one continuation of `prompt` in pieces of whole characters; options and errors as in `stream`."""
    options.update(stop_id=tokenizer.end_of_text, samples=1, unknown=_unknown(model, tokenizer))
    ids: list[int] = []
    text = shown = ""
    for column in stream(model, prompt_ids(tokenizer, prompt), **options):
        ids.append(int(column))
        if ids[-1] == tokenizer.end_of_text:
            break
        text = tokenizer.decode(ids)
        # The first bytes of a character that is split over tokens decode to this mark until the others come.
        if not text.endswith("\N{REPLACEMENT CHARACTER}"):
            yield text[len(shown) :]
            shown = text
    if text != shown:
        yield text[len(shown) :]


def sample_text(
    model: GPT | Readable, tokenizer: Tokenizer, prompt: str, **options: Unpack[SampleOptions]
) -> list[str]:
    """Return continuations of `prompt`, each up to the end of its text; options and errors as in `stream`."""
    options.update(stop_id=tokenizer.end_of_text, unknown=_unknown(model, tokenizer))
    start = prompt_ids(tokenizer, prompt)
    rows: list[list[int]] = generate(model, start, **options)[:, len(start) :].tolist()
    end = tokenizer.end_of_text
    return [tokenizer.decode(row[: row.index(end)] if end in row else row) for row in rows]


def _unknown(model: Any, tokenizer: Tokenizer) -> list[int]:
    rows = model.config.vocab_size if isinstance(model, GPT) else model.vocab_size
    return tokenizer.unknown_below(rows)


def prompt_ids(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """Encode a prompt, behind what the tokenizer's file puts in front of a text; an empty one is end-of-text."""
    before, _ = tokenizer.frame
    return [*before, *tokenizer.encode(prompt)] or [tokenizer.document_start("give --prompt TEXT")]


def draw(
    logits: Float[Tensor, "rows vocab"],
    *,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    generator: torch.Generator,
) -> Int[Tensor, " rows"]:
    """Draw a token of every row."""
    if temperature == 0:
        return logits.argmax(-1)
    # With the largest at zero, no temperature is too small to divide by.
    logits = (logits - logits.amax(-1, keepdim=True)) / temperature
    logits = keep_likeliest(logits, top_k=top_k, top_p=top_p)
    # torch.multinomial takes a random number for every token of the vocabulary and several times as long on a CPU.
    # Whole numbers, since a GPU adds floating-point ones in an order that varies.
    bounds = (logits.softmax(-1).double() * 2**40).long().cumsum(-1)
    chance = torch.rand(len(bounds), 1, dtype=torch.float64, device=bounds.device, generator=generator)
    aim = (chance * bounds[:, -1:]).long()
    return torch.searchsorted(bounds, aim, right=True)[:, 0]


def keep_likeliest(
    logits: Float[Tensor, "rows vocab"], *, top_k: int | None = None, top_p: float | None = None
) -> Float[Tensor, "rows vocab"]:
    """Put -inf for all but the `top_k` likeliest tokens, then all but those that reach `top_p` together."""
    if top_k is not None and top_k < logits.shape[-1]:
        logits = logits.masked_fill(logits < logits.topk(top_k).values[:, -1:], -torch.inf)
    if top_p is not None:
        # Summed from the unlikeliest on, where rounding is small; the likeliest stays whatever it holds.
        ranked, order = logits.sort()
        surplus = ranked.softmax(-1).cumsum(-1) <= 1 - top_p
        surplus[:, -1] = False
        logits = logits.masked_fill(surplus.scatter(-1, order, surplus), -torch.inf)
    return logits


@torch.inference_mode()
def _columns(
    reader: Reader,
    prompts: Int[Tensor, "prompts time"],
    choose: Callable[[Tensor, Tensor], Tensor],
    max_tokens: int,
    stop_id: int | None,
    samples: int,
) -> Iterator[Int[Tensor, " rows"]]:
    context = reader.context
    kept = kept_tokens(prompts.shape[1], context)
    logits = reader.restart(prompts[:, -kept:], copies=samples, room=min(context, kept + max_tokens))
    if not bool(logits.isfinite().all()):
        raise CheckpointError(
            "the model's logits are not finite, as after a training that diverged; "
            "sample from an earlier checkpoint"
        )
    texts = prompts[:, -kept:].repeat_interleave(samples, 0)
    over = torch.zeros(len(texts), dtype=torch.bool, device=reader.device)
    for left in range(max_tokens, 0, -1):
        tokens = choose(texts, logits.float())
        if stop_id is not None:
            tokens = tokens.masked_fill(over, stop_id)
            over = tokens == stop_id
        yield tokens
        if left == 1 or bool(over.all()):
            return
        texts = torch.cat((texts, tokens[:, None]), 1)
        kept = kept_tokens(texts.shape[1], context)
        if kept < texts.shape[1]:
            texts = texts[:, -kept:]
            logits = reader.restart(texts, copies=1, room=min(context, kept + left))
        else:
            logits = reader.read(tokens[:, None])


def _check_options(
    max_tokens: int, temperature: float, top_k: int | None, top_p: float | None, samples: int
) -> None:
    for name, value in (("max_tokens", max_tokens), ("top_k", top_k), ("samples", samples)):
        if value is not None and value < 1:
            raise ConfigError(f"{name} = {value}: must be at least 1")
    if samples > MOST_SAMPLES:
        raise ConfigError(
            f"samples = {samples}: at most {MOST_SAMPLES:,} are written at once; run again with another seed"
        )
    if not 0 <= temperature < float("inf"):
        raise ConfigError(f"temperature = {temperature}: must be 0 (the likeliest token) or above")
    if top_p is not None and not 0 < top_p <= 1:
        raise ConfigError(
            f"top_p = {top_p}: must be above 0 and at most 1; temperature 0 takes the likeliest token"
        )


def _check_prompts(ids: Tensor | Sequence[int], vocab_size: int) -> Int[Tensor, "prompts time"]:
    prompts = torch.as_tensor(ids)
    if prompts.ndim not in (1, 2) or prompts.numel() == 0:
        raise ConfigError(
            f"a prompt of shape {tuple(prompts.shape)}: must be a row of ids, or several of equal length, "
            "with at least one id; the tokenizer's end_of_text starts a text from nothing"
        )
    if prompts.is_floating_point() or prompts.dtype == torch.bool:
        raise ConfigError(f"a prompt of type {prompts.dtype}: must hold integers, a tokenizer's ids")
    low, high = int(prompts.min()), int(prompts.max())
    if low < 0 or high >= vocab_size:
        raise ConfigError(
            f"a prompt with id {low if low < 0 else high}: the model's ids are 0 to {vocab_size - 1}; "
            "encode it with the model's own tokenizer"
        )
    return prompts.long().reshape(-1, prompts.shape[-1])
