"""Text from a model, token by token, with a key/value cache.

A prompt is read once for any number of samples. When a text outgrows the context, its window slides: the cache is
rebuilt from the last half context, since learned positions cannot be shifted.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, Required, TypedDict, Unpack

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from gptlab.data.tokenizer import Tokenizer
from gptlab.draw import draw
from gptlab.errors import CheckpointError, ConfigError
from gptlab.machine.memory import in_parts
from gptlab.model.attention import LayerCache
from gptlab.model.autocast import attention_dtype, inference_autocast
from gptlab.model.gpt import GPT
from gptlab.model.packed import packed

# New tokens that make packing pay off in float32; its time is saved back after about 20 of them (124M parameters).
PACKED_FROM = 64
MOST_SAMPLES = 65_536  # each holds memory from the first token on

Ids = Tensor | Sequence[int] | Sequence[Sequence[int]]
"""A prompt, or rows of prompts of equal length."""


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """Sample texts written during training, for people to read."""

    prompts: tuple[str, ...] = ()
    """How the texts begin; an empty prompt starts a document, and without prompts no texts are written."""
    max_tokens: int = 48
    """Tokens per text."""
    temperature: float = 0.8
    """Divides the logits; 0 takes the likeliest token."""
    top_k: int | None = 50
    """Draw from this many of the likeliest tokens; None means all."""

    def options(self) -> "SampleOptions":
        """Return the options of `generate`."""
        return {
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "top_k": self.top_k,
            "seed": 0,  # the same draws every time, so that texts of different steps compare
        }


class SampleOptions(TypedDict, total=False):
    """The options of `stream`, for functions that pass them on."""

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
    """A model and its cache; reading returns the logits of the next token."""

    context: int
    """Longest text, in tokens."""
    vocab_size: int
    """Entries of the vocabulary."""
    device: torch.device
    """Where the weights are."""

    def restart(
        self, ids: Int[Tensor, "rows time"], *, copies: int, room: int
    ) -> Float[Tensor, "copied_rows vocab"]:
        """Forget everything, read `ids`, and repeat each row `copies` times, with room for `room` tokens."""
        ...

    def read(self, ids: Int[Tensor, "rows 1"]) -> Float[Tensor, "rows vocab"]:
        """Read one more token per row."""
        ...


class Readable(Protocol):
    """A foreign model with its own cache."""

    def reader(self, dtype: torch.dtype) -> Reader:
        """Return a reader that has read nothing and multiplies in a number format."""
        ...


class Writer:
    """A model that writes: `model.generate(ids, max_new_tokens=100)`."""

    unknown_ids: Sequence[int] = ()
    """Ids that only pad the vocabulary, unknown to the tokenizer; they are never drawn."""

    def generate(
        self: Any,
        ids: Ids,
        max_new_tokens: int | None = None,
        *,
        max_tokens: int | None = None,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        stop_id: int | None = None,
        samples: int = 1,
        dtype: torch.dtype = torch.float32,
    ) -> Int[Tensor, "rows time"]:
        """Return prompts with their continuations, one row per sample, as in `model.generate([464, 1468], 40)`.

        For many texts, prepare the weights once: `model = packed(model, dtype)`.

        Args:
            ids: a prompt, as a list or tensor of the tokenizer's ids, or several of equal length; of one longer than
                the context only the end is read.
            max_new_tokens: the most tokens to write, not counting the prompt's; None means 100.
            max_tokens: the same, as `gptlab sample` calls it.
            temperature: divides the logits; 0 takes the likeliest token.
            top_k: draw from this many of the likeliest tokens; None means all.
            top_p: draw from the likeliest tokens whose probabilities together reach this, from 0 to 1; None means all.
            seed: of the draws; None means a different one every time.
            stop_id: the id that ends a text, such as `tokenizer.end_of_text`; the rest of its row repeats it.
            samples: texts per prompt.
            dtype: data type of matrix multiplications.

        Raises:
            ConfigError: an option is out of range, or a prompt is empty or has ids outside the vocabulary.
            CheckpointError: the logits are not finite, as in a model that diverged.
        """
        given = [most for most in (max_new_tokens, max_tokens) if most is not None]
        if len(given) > 1:
            raise ConfigError("max_new_tokens and max_tokens: are two names of one option; leave one out")
        return generate(
            self,
            ids,
            max_tokens=given[0] if given else 100,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=seed,
            stop_id=stop_id,
            samples=samples,
            dtype=dtype,
        )


class GeneratingGPT(Writer, GPT):
    """A GPT that writes."""

    @property
    def context(self) -> int:
        """Longest text, in tokens."""
        return self.config.context


class GPTReader:
    """Our own model with the caches of its layers."""

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
        # The logits of a whole prompt would take more memory than everything else.
        with inference_autocast(attention_dtype(self.device, self._dtype), self.device):
            return self._model.head(self._model.hidden_states(ids, cache)[:, -1:])[:, 0]


def kept_tokens(length: int, context: int) -> int:
    """Return how many of a text's last tokens to read: all, or half a context once it outgrows one."""
    return length if length <= context else max(1, context // 2)


def stream(
    model: GPT | Readable,
    ids: Ids,
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
    """Return an iterator over new tokens, one per row at a time, without touching torch's random state.

    Options as in `Writer.generate`; `unknown` are ids that are never drawn, by default the model's `unknown_ids`, and
    `adjust` returns the logits to choose from, given the ids read and the model's logits.

    Raises:
        ConfigError: an option is out of range, or a prompt is empty or has ids outside the vocabulary.
        CheckpointError: the logits are not finite, as in a model that diverged.
    """
    _check_options(max_tokens, temperature, top_k, top_p, samples)
    reader = _reader(model, dtype, max_tokens)
    prompts = _check_prompts(ids, reader.vocab_size).to(reader.device)
    # Apple's GPU has no float64, in which numbers are drawn.
    generator = torch.Generator("cpu" if reader.device.type == "mps" else reader.device)
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    banned = getattr(model, "unknown_ids", ()) if unknown is None else unknown
    banned_ids = torch.tensor(banned, dtype=torch.long, device=reader.device)
    drawn = partial(draw, temperature=temperature, top_k=top_k, top_p=top_p, generator=generator)

    def choose(texts: Tensor, logits: Tensor) -> Tensor:
        logits = adjust(texts, logits) if adjust else logits
        return drawn(logits.index_fill(-1, banned_ids, -torch.inf) if len(banned_ids) else logits)

    return _columns(reader, prompts, choose, max_tokens, stop_id, samples)


def _reader(model: GPT | Readable, dtype: torch.dtype, max_tokens: int) -> Reader:
    pays = dtype != torch.float32 or max_tokens >= PACKED_FROM
    ready = packed(model, dtype) if isinstance(model, nn.Module) and pays else model
    return GPTReader(ready, dtype) if isinstance(ready, GPT) else ready.reader(dtype)


def generate(model: GPT | Readable, ids: Ids, **options: Unpack[SampleOptions]) -> Int[Tensor, "rows time"]:
    """Return the prompts with their continuations, one row per sample; options and errors as in `stream`.

    If memory runs out, the samples are written in halves, with different draws.
    """
    seed, stop_id = options.get("seed"), options.get("stop_id")

    def some(numbers: Sequence[int]) -> Tensor:
        own = seed + numbers[0] if seed is not None and numbers else seed
        part: SampleOptions = {**options, "samples": len(numbers), "seed": own}
        columns = torch.stack(list(stream(model, ids, **part)), 1)
        return columns.unflatten(0, (-1, len(numbers)))

    parts = [rows for _, rows in in_parts(some, range(options.get("samples", 1)))]
    width = max(part.shape[-1] for part in parts)  # each ends with its last row
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
        # A character split over tokens decodes to this mark until its last bytes arrive.
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
    """Encode a prompt, after the tokens that the tokenizer puts before a text; an empty one is end-of-text."""
    before, _ = tokenizer.frame
    return [*before, *tokenizer.encode(prompt)] or [tokenizer.document_start("give --prompt TEXT")]


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
            "the model's logits are not finite, as after training that diverged; sample from an earlier checkpoint"
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
    counts: dict[str, Any] = {"max_tokens": max_tokens, "top_k": top_k, "samples": samples}
    for name, value in counts.items():
        if value is not None and (not isinstance(value, int) or value < 1):
            raise ConfigError(f"{name} = {value}: must be at least 1, a whole number")
    if samples > MOST_SAMPLES:
        raise ConfigError(
            f"samples = {samples}: must be at most {MOST_SAMPLES:,}; for more, run again with another seed"
        )
    if not 0 <= temperature < float("inf"):
        raise ConfigError(f"temperature = {temperature}: must be 0 (the likeliest token) or above")
    if top_p is not None and not 0 < top_p <= 1:
        raise ConfigError(
            f"top_p = {top_p}: must be above 0 and at most 1; temperature 0 takes the likeliest token"
        )


def _check_prompts(ids: Ids, vocab_size: int) -> Int[Tensor, "prompts time"]:
    try:
        prompts = torch.as_tensor(ids)
    except (TypeError, ValueError, RuntimeError):
        raise ConfigError(
            f"a prompt of {type(ids).__name__}: must be a list of ids, or lists of equal length; make one of a text "
            "with tokenizer.encode(text)"
        ) from None
    if prompts.ndim not in (1, 2) or prompts.numel() == 0:
        raise ConfigError(
            f"a prompt of shape {tuple(prompts.shape)}: must be one or several rows of ids, of equal length and not "
            "empty; start with the tokenizer's end_of_text to write without a prompt"
        )
    if prompts.is_floating_point() or prompts.dtype == torch.bool:
        raise ConfigError(f"a prompt of type {prompts.dtype}: must hold integers, the tokenizer's ids")
    low, high = int(prompts.min()), int(prompts.max())
    if low < 0 or high >= vocab_size:
        raise ConfigError(
            f"a prompt with id {low if low < 0 else high}: the model's ids are 0 to {vocab_size - 1}; "
            "encode it with the model's own tokenizer"
        )
    return prompts.long().reshape(-1, prompts.shape[-1])
