"""A small export, asked by lm-evaluation-harness as ours and as its own `hf` model."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from gptlab.actions import lm_eval
from gptlab.data.load_tokenizer import load_tokenizer
from gptlab.formats.huggingface.write import export
from gptlab.model.gpt import ModelConfig
from gptlab.sample import GeneratingGPT

CONTEXT = 400
END = "<|endoftext|>"
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
TALK = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who?"}]

Folder = Callable[..., Path]


def small_export(folder: Path) -> Path:
    """Export a model whose likeliest tokens are far from a tie."""
    torch.manual_seed(3)
    shape = {"n_layer": 2, "n_head": 4, "n_embd": 64, "context": CONTEXT, "vocab_size": 257}
    model = GeneratingGPT(ModelConfig(**shape)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    export(model, load_tokenizer("bytes"), folder, verify=False)
    return folder


def copies(folder: Path, place: Path) -> Folder:
    """Return what makes copies of an export, each with its files changed."""

    def make(**changes: dict[str, Any]) -> Path:
        copy = place / f"hf{len(list(place.iterdir()))}"
        shutil.copytree(folder, copy)
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
    return lm_eval.from_arguments(path=str(path), device="cpu", **arguments)


def theirs(path: Path, **arguments: Any) -> Any:
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=str(path), device="cpu", dtype="float32", batch_size=1, **arguments)


def requests(kind: Any, *arguments: tuple[Any, ...]) -> list[Any]:
    from lm_eval.api.instance import Instance

    return [Instance(kind, {}, each, 0, ("task", number, 1)) for number, each in enumerate(arguments)]


def same_scores(first: Any, second: Any, pairs: Sequence[tuple[str, str]] = PAIRS) -> list[float]:
    """Hold log-likelihoods of pairs and texts against each other."""
    asked = requests("loglikelihood", *pairs)
    mine, expected = first.loglikelihood(asked), second.loglikelihood(asked, disable_tqdm=True)
    for pair, (found, greedy), (number, wanted) in zip(pairs, mine, expected, strict=True):
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
