"""How a class of transformers reads a text, found by trying: neither its name nor its config tells.

AutoModelForCausalLM also loads encoders, which see the future, and decoders whose cache is missing or cannot be
repeated or emptied. So every model reads a few tokens first.
Axes: B rows, T time, V vocabulary.
"""

import inspect
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gptlab.data.hugging_face_files import CONFIG
from gptlab.errors import CheckpointError, brief
from gptlab.machine.memory import ran_out
from gptlab.model.autocast import attention_dtype, inference_autocast
from gptlab.progress import QUIET_S, StatusLine
from gptlab.sample import Reader

# Config keys for the longest text, the commonest name first.
LENGTHS = (
    *("max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len", "seq_length", "n_ctx"),
    *("context_length", "max_target_positions", "model_max_length"),
)
# Tokens of the trial texts: about a second's work, within these bounds.
MOST, FEWEST, WORK = 512, 16, 10_000_000_000  # WORK is tokens times parameters
READ_SINGLY = 8  # tokens read one by one, to try the cache
# Two computations of a logit may differ by this share of the largest one; a GPU multiplies in TF32.
TOLERANCE = {"cpu": 1e-4, "cuda": 1e-3}
# Rounding decides between equally likely experts: this share of the places may differ, but not the last ones.
STRAY_SHARE, LAST = 0.05, 4


def longest_text(model: Any) -> int | None:
    """Return how many tokens a model of transformers can read; None if its config does not say."""
    config = _text_config(model)
    named = (getattr(config, name, None) for name in LENGTHS)
    length = next((n for n in named if isinstance(n, int) and not isinstance(n, bool) and n > 0), None)
    if length is None:
        return None
    for name, table in model.named_modules():
        # RoBERTa, ProphetNet and their kin number positions from the one after the padding's.
        if isinstance(table, nn.Embedding) and "position" in name and table.padding_idx is not None:
            length = min(length, table.num_embeddings - table.padding_idx - 1)
    if getattr(config, "ngram", None):  # ProphetNet also looks up the position that it predicts
        length -= 1
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") == "longrope":
        # Beyond this length all wavelengths change, and with them everything read before.
        length = min(length, rope.get("original_max_position_embeddings") or length)
    return length


def vocabulary_of(model: Any) -> int:
    """Return how many ids a model of transformers has.

    Raises:
        CheckpointError: its config does not say so.
    """
    size = getattr(_text_config(model), "vocab_size", None)
    if not isinstance(size, int) or size < 1:
        raise CheckpointError(
            f"{CONFIG}: vocab_size = {size}: must be the number of ids; add it to the folder's copy"
        )
    return size


def _text_config(model: Any) -> Any:
    """Return the text part of a config."""
    config = model.config
    return config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config


# How a text is continued: with a cache repeated for several samples, with a new cache for each sample, or with the
# whole text at every token.
Way = Literal["repeated", "continued", "whole"]
CACHED: tuple[Way, ...] = ("repeated", "continued")


class Trials:
    """What trials of a model of transformers found; copies of the model share it."""

    def __init__(self, model: Any) -> None:
        self.warned = False
        self._model = model
        self._way: Way | None = None

    def __deepcopy__(self, memo: dict[int, object]) -> "Trials":
        return self

    def way(self, context: int, vocab_size: int) -> Way:
        """Return the fastest way to continue a text that gives the logits of the whole text."""
        if self._way is None:
            self._way = _fastest(self._model, context, vocab_size)
        return self._way


def _fastest(model: Any, context: int, vocab_size: int) -> Way:
    for way in CACHED:
        if _reads_on(model, way, context, vocab_size):
            return way
    return "whole"


def logits_of(model: Any, ids_BT: Tensor, **options: Any) -> Tensor:
    """Return the logits of the token that follows each prefix, without a cache.

    Raises:
        CheckpointError: transformers cannot compute them.
    """
    with named(model, ids_BT):
        return model(input_ids=ids_BT, **taken(model, use_cache=False, **options)).logits


@contextmanager
def named(model: Any, ids_BT: Tensor) -> Generator[None]:
    """Turn what transformers raises into an error that names the class; let running out of memory pass."""
    try:
        yield
    except Exception as error:  # transformers passes on whatever its parts raise
        if ran_out(error):
            raise
        raise CheckpointError(
            f"{type(model).__name__} cannot read {ids_BT.shape[1]} ids ({brief(error)}); a causal model of text alone "
            "is needed, with a config that fits it"
        ) from error


def taken(model: Any, **options: Any) -> dict[str, Any]:
    """Return those of the arguments that a model of transformers takes."""
    known = inspect.signature(model.forward).parameters
    return {name: value for name, value in options.items() if name in known}


def reader_of(model: Any, trials: Trials, context: int, vocab_size: int, dtype: torch.dtype) -> Reader:
    """Return a reader that has read nothing, with the model's cache if that can be trusted."""
    way = trials.way(context, vocab_size)
    if way == "whole":
        return WholeReader(model, context, vocab_size, dtype, trials)
    return CacheReader(model, context, vocab_size, dtype, way)


class CacheReader:
    """A model of transformers with its own cache."""

    def __init__(self, model: Any, context: int, vocab_size: int, dtype: torch.dtype, way: Way) -> None:
        self.context, self.vocab_size = context, vocab_size
        self.device: torch.device = model.device
        self._model, self.way = model, way
        self._attention_dtype = attention_dtype(self.device, dtype)
        # Most classes can compute the head at the last position only.
        self._last_only = taken(model, logits_to_keep=1)
        # From transformers 5.24 on all classes call it `cache`.
        names = taken(model, past_key_values=None, cache_params=None, cache=None)
        self._cache_name = next(iter(names), "past_key_values")
        self._cache: Any = None

    def restart(self, ids: Tensor, *, copies: int, room: int) -> Tensor:
        self._cache = None
        if copies == 1 or self.way != "repeated":
            return self.read(ids.repeat_interleave(copies, 0))
        logits = self.read(ids)
        self._cache.batch_repeat_interleave(copies)
        return logits.repeat_interleave(copies, 0)

    def read(self, ids: Tensor) -> Tensor:
        cache = {self._cache_name: self._cache}
        with inference_autocast(self._attention_dtype, self.device), named(self._model, ids):
            output = self._model(input_ids=ids, use_cache=True, **cache, **self._last_only)
        self._cache = output[self._cache_name]
        return output.logits[:, -1]


class WholeReader:
    """A model of transformers that rereads the whole text for every token."""

    def __init__(self, model: Any, context: int, vocab_size: int, dtype: torch.dtype, trials: Trials) -> None:
        self.context, self.vocab_size = context, vocab_size
        self.device: torch.device = model.device
        self._model, self._trials = model, trials
        self._attention_dtype = attention_dtype(self.device, dtype)
        self._last_only = taken(model, logits_to_keep=1)
        self._text, self._start = torch.empty(0), time.monotonic()

    def restart(self, ids: Tensor, *, copies: int, room: int) -> Tensor:
        self._text = ids
        logits = self._logits()
        self._text = ids.repeat_interleave(copies, 0)
        return logits.repeat_interleave(copies, 0)

    def read(self, ids: Tensor) -> Tensor:
        if not self._trials.warned and time.monotonic() - self._start > QUIET_S:
            self._trials.warned = True
            StatusLine().show(
                f"{type(self._model).__name__} has no cache that gives its own logits: every token rereads the whole "
                f"text, up to {self.context:,} tokens",
                final=True,
            )
        self._text = torch.cat((self._text, ids), 1)
        return self._logits()

    def _logits(self) -> Tensor:
        with inference_autocast(self._attention_dtype, self.device):
            return logits_of(self._model, self._text, **self._last_only)[:, -1]


@torch.inference_mode()
def require_causal(model: Any, context: int | None, vocab_size: int) -> None:
    """Require that a model's predictions depend only on the text before them, in a batch or alone.

    Raises:
        CheckpointError: they do not, or the model needs more than ids.
    """
    name = type(model).__name__
    text_BT, other_BT = _texts(model, context, vocab_size)
    length = text_BT.shape[1]
    # Odd, so that it falls inside a chunk if a class cuts texts into chunks.
    seen = length // 2 | 1
    alone, again = logits_of(model, text_BT), logits_of(model, text_BT)
    if alone.shape != (1, length, vocab_size):
        raise CheckpointError(
            f"{name} makes logits of shape {tuple(alone.shape)} from {length} ids and a vocabulary of {vocab_size:,}; "
            f"use a model of text alone, which makes (1, {length}, {vocab_size})"
        )
    begun = logits_of(model, text_BT[:, :seen])
    changed = torch.cat((text_BT[:, :seen], other_BT[:, seen:]), 1)
    padded = torch.cat((text_BT[:, :seen], torch.zeros_like(text_BT[:, seen:])), 1)
    batch = logits_of(model, torch.cat((text_BT, changed, padded, other_BT)))
    others = logits_of(model, other_BT)
    if _differ(alone, again):
        raise CheckpointError(
            f"{name} makes different logits from the same text every time; it cannot be scored"
        )
    if any(_differ(row[None, :seen], begun) for row in (alone[0], *batch[:3])):
        raise CheckpointError(_not_causal(name, model))
    if _differ(alone, batch[:1]) or _differ(others, batch[3:]):
        raise CheckpointError(
            f"{name} makes different logits from a text if the batch holds others; it cannot be scored in batches"
        )


def _not_causal(name: str, model: Any) -> str:
    remedy = "use a causal model such as GPT-2"
    for key in ("is_decoder", "causal"):
        if getattr(model.config, key, None) is False:
            asked = f'put "{key}": true into the folder\'s copy of {CONFIG}'
            remedy = f"if it was trained to write text, {asked}; else {remedy}"
    return f"{name} is not causal here: its predictions depend on later tokens; {remedy}"


def _texts(model: Any, context: int | None, vocab_size: int) -> tuple[Tensor, Tensor]:
    """Return two texts, the same every time, that differ in every token except a padding token."""
    size = sum(parameter.numel() for parameter in model.parameters())
    length = min(context or MOST, MOST, max(FEWEST, WORK // size))
    generator = torch.Generator().manual_seed(0)
    text = torch.randint(vocab_size, (1, length), generator=generator)
    other = (text + torch.randint(1, max(2, vocab_size), (1, length), generator=generator)) % vocab_size
    padding = getattr(_text_config(model), "pad_token_id", None)
    if isinstance(padding, int) and 0 <= padding < vocab_size:
        # Some classes skip it when they count positions, but their caches do not.
        text[:, length // 3] = other[:, length // 3] = padding
    return text.to(model.device), other.to(model.device)


def _differ(logits: Tensor, others: Tensor) -> bool:
    """Tell whether logits of the same places differ by more than rounding and rare choices explain."""
    bound = TOLERANCE.get(logits.device.type, 1e-3) * others.abs().max()
    places = ~((logits - others).abs().amax(-1) <= bound)  # NaN differs
    return bool(places[:, -LAST:].any()) or float(places.float().mean()) > STRAY_SHARE


@torch.inference_mode()
def _reads_on(model: Any, way: Way, context: int, vocab_size: int) -> bool:
    """Tell whether a cache, emptied between two texts, gives the logits of reading without one."""
    texts_BT = torch.cat(_texts(model, context, vocab_size))
    length = texts_BT.shape[1]
    start = max(1, length - READ_SINGLY)
    reader = CacheReader(model, context, vocab_size, torch.float32, way)
    try:
        for rows_BT in (texts_BT, texts_BT.flip(0)):
            copies_BT = rows_BT.repeat_interleave(2, 0)
            read = [reader.restart(rows_BT[:, :start], copies=2, room=length)]
            read += [reader.read(copies_BT[:, at : at + 1]) for at in range(start, length)]
            if _differ(torch.stack(read, 1), logits_of(model, copies_BT)[:, start - 1 :]):
                return False
    except Exception as error:  # a class without such a cache fails as it likes
        if ran_out(error):
            raise
        return False
    return True
