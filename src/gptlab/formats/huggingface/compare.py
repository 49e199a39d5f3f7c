"""A folder in transformers compared with the model it was made from: ids, logits and greedy text."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gptlab.data.hugging_face_files import CONFIG
from gptlab.data.tokenizer import Tokenizer
from gptlab.errors import ExportError
from gptlab.formats.huggingface.wrap import load_causal_lm, quiet_transformers
from gptlab.model.gpt import GPT
from gptlab.sample import generate

# Two float32 computations of a logit may differ by this many nats plus this share of the largest logit, which is
# about a hundred in OpenAI's GPT-2.
ABSOLUTE_TOLERANCE, RELATIVE_TOLERANCE = 1e-4, 1e-5
GREEDY_TOKENS = 16
# The logits of a whole context of 32,768 tokens would fill 6 GB, and both models' caches as much again.
PLACES, LONGEST_PROMPT = 128, 2048

# Three scripts, an emoji, all kinds of white space, and text that only looks like a special token.
PROBE = (
    "Hello, world!  It's \u00fcber 1234.\n\n\t\u4f60\u597d, \u043f\u0440\u0438\u0432\u0435\u0442 \U0001f642"
    "\r\n<|endoftext|> def f(x):\n    return x "
)


def compare(model: GPT, tokenizer: Tokenizer, folder: Path) -> float:
    """Return the largest difference of a logit, in nats.

    Args:
        model: in float32.
        tokenizer: its own.
        folder: an export of both, written by this process.

    Raises:
        ExportError: transformers loads another model.
    """
    device = model.embed.weight.device
    text_ids = _compare_ids(tokenizer, folder)[None, : model.config.context].to(device)
    theirs = load_causal_lm(folder, our_own=True).to(device)
    samples = (any_ids(model), text_ids)
    difference = max(_compare_logits(model, theirs, ids) for ids in samples)
    for ids in samples:
        _compare_greedy(model, theirs, ids)
    return difference


def compare_logits(model: GPT, folder: Path) -> float | None:
    """Return the largest difference of a logit from the foreign folder that the model was read from, in nats.

    None if the folder brings its own code, which is not run.

    Raises:
        ExportError: transformers loads another model.
    """
    if "auto_map" in json.loads((folder / CONFIG).read_text(encoding="utf-8")):
        return None
    return _compare_logits(model, load_causal_lm(folder).to(model.embed.weight.device), any_ids(model))


def any_ids(model: GPT) -> Tensor:
    """Draw a row of ids as long as the context, the same every time."""
    generator, shape = torch.Generator().manual_seed(0), (1, model.config.context)
    return torch.randint(model.config.vocab_size, shape, generator=generator).to(model.embed.weight.device)


def _compare_ids(tokenizer: Tokenizer, folder: Path) -> Tensor:
    from transformers import AutoTokenizer

    with quiet_transformers():
        theirs = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=True)
        # By default it finds special tokens in ordinary text; ours never does.
        their_ids = theirs(PROBE, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    ids = tokenizer.encode(PROBE)
    if their_ids != ids:
        raise ExportError(f"tokenizer {tokenizer.name}: transformers would split text into other ids")
    return torch.tensor(ids)


def places_of(length: int) -> Tensor:
    """Return the positions to compare: all, or the first, the last and others evenly between."""
    return torch.linspace(0, length - 1, min(length, PLACES), dtype=torch.float64).round().long()


@torch.inference_mode()
def logits_at(model: GPT, ids: Tensor, places: Tensor) -> Tensor:
    """Return a row's logits at some positions, (1, places, vocabulary), without computing the others."""
    return model.head(model.hidden_states(ids)[:, places])


@torch.inference_mode()
def _compare_logits(model: GPT, theirs: Any, ids: Tensor) -> float:
    if ids.shape[1] > LONGEST_PROMPT and theirs.config._attn_implementation == "eager":
        # Such a class writes out all scores in case attention has a soft cap; ours has none.
        theirs.config._attn_implementation = "sdpa"
    places = places_of(ids.shape[1]).to(ids.device)
    logits = logits_at(model, ids, places)
    output = theirs(input_ids=ids, use_cache=False, logits_to_keep=places)
    diff = float((logits - output.logits).abs().max())
    if not diff <= _tolerance(logits):  # also true of NaN
        raise ExportError(
            f"transformers' logits are up to {diff:.2g} nats from the model's, more than {_tolerance(logits):.2g}; "
            "nothing was written"
        )
    return diff


def _tolerance(logits: Tensor) -> float:
    return ABSOLUTE_TOLERANCE + RELATIVE_TOLERANCE * float(logits.abs().max())


@torch.inference_mode()
def _compare_greedy(model: GPT, theirs: Any, ids: Tensor) -> None:
    """Compare the texts that both write with their caches; of two equally likely tokens either may come first."""
    context = model.config.context
    prompt = ids[:, : max(1, min(ids.shape[1], context - GREEDY_TOKENS, LONGEST_PROMPT))]
    count = min(GREEDY_TOKENS, context - prompt.shape[1])
    if count < 1:
        return
    ours = generate(model, prompt, max_tokens=count, temperature=0, dtype=torch.float32)
    with quiet_transformers():
        written = theirs.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_length=prompt.shape[1] + count,
            do_sample=False,
            eos_token_id=None,
        )
    differing = (ours != written)[0].nonzero()
    if not len(differing):
        return
    at = int(differing[0])
    logits = logits_at(model, ours[:, :at], torch.tensor([at - 1], device=ours.device))[0, 0]
    if float((logits[ours[0, at]] - logits[written[0, at]]).abs()) > 2 * _tolerance(logits):
        raise ExportError(
            f"the export's greedy text differs from the model's at token {at - prompt.shape[1]}; nothing was written"
        )
