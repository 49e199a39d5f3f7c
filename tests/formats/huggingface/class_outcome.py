"""The outcome for a tiny model of a class: right, judged by transformers itself, or refused, and in which words."""

import json
import re
from pathlib import Path
from typing import Any

import torch
from tiny_causal import CONTEXT, VOCAB, make_folder
from torch import Tensor

from gptlab.errors import GptlabError
from gptlab.eval.score import log_likelihoods
from gptlab.formats.huggingface.wrap import HuggingFaceModel, load_hugging_face, quiet_transformers

WAYS = {
    "repeated": "its cache",
    "continued": "its cache, made for each sample",
    "whole": "the whole text for every token",
}
# Remedies named by refusals; the test then applies them as a user would.
REMEDY = re.compile(r'put "(\w+)": true into')
NO_CONTEXT = "has no max_position_embeddings"
TOLERANCE = 1e-5  # of the largest logit
PROMPT = 9


def outcome(model_type: str, folder: Path) -> str:
    """Return the outcome for a class's folder, in the words of the page."""
    make_folder(model_type, folder)
    found = attempt(folder)
    while (change := remedy(found)) is not None:
        name, value = change
        config = json.loads((folder / "config.json").read_text())
        assert config.get(name) != value, found
        (folder / "config.json").write_text(json.dumps(config | {name: value}))
        found = f'{attempt(folder)}; before `"{name}": {json.dumps(value)}`, {found}'
    return found


def remedy(found: str) -> tuple[str, Any] | None:
    """Return the key of the config that the newest refusal asks for."""
    newest = found.partition("; before ")[0]
    if NO_CONTEXT in newest:
        return "max_position_embeddings", CONTEXT
    asked = REMEDY.search(newest)
    return (asked[1], True) if asked else None


def attempt(folder: Path) -> str:
    """Load a folder and compare everything that gptlab makes of it with transformers; a refusal is one line."""
    try:
        model, tokenizer = load_hugging_face(folder)
    except GptlabError as error:
        words = str(error)
        assert "\n" not in words
        assert words.startswith(f"{folder}: ")
        return f"refused: {words.removeprefix(f'{folder}: ')}"
    assert tokenizer.vocab_size <= model.vocab_size
    return compare(model, theirs(folder))


def theirs(folder: Path) -> Any:
    """Load a folder as transformers does."""
    from transformers import AutoModelForCausalLM

    with quiet_transformers():
        return AutoModelForCausalLM.from_pretrained(
            str(folder), dtype=torch.float32, local_files_only=True
        ).eval()


@torch.no_grad()
def compare(model: HuggingFaceModel, reference: Any) -> str:
    """Compare logits, scores and greedy text with transformers' own, one row at a time."""
    texts = torch.randint(VOCAB, (2, model.context), generator=torch.Generator().manual_seed(1))
    whole = torch.cat([logits(reference, row[None]) for row in texts])
    near = TOLERANCE * float(whole.abs().max())
    assert float((model(texts) - whole).abs().max()) <= near, "logits"

    pairs = [
        (texts[0, :5].tolist(), texts[0, 5:15].tolist()),
        (texts[1, :20].tolist(), texts[1, 20:].tolist()),
        ([3], [0, 1, VOCAB - 1, 7]),
        (texts[0].tolist(), texts[1, :9].tolist()),  # longer than the context
    ]
    for (before, ending), score in zip(
        pairs, log_likelihoods(model, pairs, context=model.context, device="cpu"), strict=True
    ):
        text = torch.tensor([(before + ending)[-model.context - 1 :]])
        log_probs = logits(reference, text[:, :-1])[0, -len(ending) :].log_softmax(-1)
        expected = float(log_probs.gather(-1, text[0, -len(ending) :, None]).sum())
        assert abs(score.log_likelihood - expected) <= 2 * near * len(ending), "scores"

    prompts, new = texts[:, :PROMPT], model.context - PROMPT
    written = model.generate(prompts, max_new_tokens=new, temperature=0, samples=2)
    for row in written:
        read = logits(reference, row[None, :-1])[0, PROMPT - 1 :]
        chosen = read.gather(-1, row[PROMPT:, None])[:, 0]
        assert float((read.amax(-1) - chosen).max()) <= 2 * near, "greedy text"
    assert torch.equal(written[::2], written[1::2]), "samples"
    alone = [model.generate(row, max_new_tokens=new, temperature=0)[0] for row in prompts]
    assert torch.equal(torch.stack(alone), written[::2]), "one by one"
    longer = model.generate(prompts, max_new_tokens=new + 20, temperature=0)
    assert torch.equal(longer[:, : model.context], written[::2]), "longer than the context"
    model.generate(prompts, max_new_tokens=4, dtype=torch.bfloat16)
    reader = model.reader(torch.float32)
    same = generated(reference, prompts, new)
    if same is not None and not torch.equal(same, written[::2]):
        return (
            f"right, sampled with {way(reader)}; transformers' generate writes other text than its own logits"
        )
    return f"right, sampled with {way(reader)}"


def way(reader: Any) -> str:
    """Describe how a reader continues a text."""
    return WAYS[getattr(reader, "way", "whole")]


def logits(reference: Any, ids: Tensor) -> Tensor:
    """Return transformers' logits; some classes cannot make a cache that they are not asked for."""
    try:
        return reference(input_ids=ids).logits
    except Exception:
        return reference(input_ids=ids, use_cache=False).logits


def generated(reference: Any, prompts: Tensor, new: int) -> Tensor | None:
    """Return transformers' greedy text, or None if it cannot write any."""
    reference.generation_config.forced_eos_token_id = None
    try:
        with quiet_transformers():
            return reference.generate(
                prompts,
                attention_mask=torch.ones_like(prompts),
                do_sample=False,
                max_new_tokens=new,
                eos_token_id=None,
                pad_token_id=1,
            )
    except Exception:
        return None
