"""Mutants of Hugging Face folders: each is refused in a line, or computes what transformers computes of it."""

import json
import random
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from folder_keys import KEYS
from folder_mutants import mutate, write_originals

from gptlab.errors import GptlabError
from gptlab.formats.huggingface.wrap import HuggingFaceModel
from gptlab.loading import load

FEW, MANY = 60, 3_500
TOLERANCE = 1e-3  # of the largest logit
# What transformers stumbles over, and no number depends on.
STUMBLES = ("padding_idx", "Padding_idx")

pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_originals(tmp_path_factory.mktemp("originals"))


def of_transformers(folder: Path) -> Any:
    """Load a folder as transformers does; the class of our own as AutoModelForCausalLM takes it from the folder."""
    from transformers import AutoModelForCausalLM

    from gptlab.formats.huggingface.modeling_gptlab import GPTLabForCausalLM
    from gptlab.formats.huggingface.wrap import quiet_transformers

    own = json.loads((folder / "config.json").read_text())["model_type"] == "gptlab"
    maker: Any = GPTLabForCausalLM if own else AutoModelForCausalLM
    with quiet_transformers():
        model, report = maker.from_pretrained(
            str(folder), dtype=torch.float32, local_files_only=True, output_loading_info=True
        )
    assert not report["missing_keys"], f"{report['missing_keys']} are missing"
    return model.eval()


def problem_of(folder: Path) -> str:
    """Load a folder; return "refused", "theirs", where transformers runs it, "same", or what is wrong."""
    try:
        model, _ = load(folder, "cpu")
    except GptlabError as error:
        text = str(error)
        return "refused" if text.isprintable() and len(text) < 1000 else f"an unreadable message: {text!r}"
    if isinstance(model, HuggingFaceModel):
        return "theirs"
    try:
        theirs = of_transformers(folder)
    except Exception as error:
        if any(word in str(error) for word in STUMBLES):
            return "same"
        return f"transformers does not load it: {type(error).__name__} {str(error)[:300]}"
    ids = torch.randint(257, (2, model.config.context), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        here, there = model(ids), theirs(input_ids=ids, use_cache=False).logits
    difference, largest = float((here - there).abs().max()), float(there.abs().max())
    # Huge weights make numbers that are none, in both, if not at the same places.
    none = not (here.isfinite().all() or there.isfinite().all())
    same = difference <= TOLERANCE * largest or none
    return "same" if same else f"up to {difference:.2g} of {largest:.2g} nats from transformers' logits"


def go_through(count: int, seed: int, originals: list[Path], folder: Path) -> Counter[str]:
    ends, problems = Counter[str](), list[str]()
    for number in range(count):
        draw = random.Random(f"folder {seed} {number}")
        original, mutant = draw.choice(originals), folder / "mutant"
        shutil.rmtree(mutant, ignore_errors=True)
        shutil.copytree(original, mutant)
        done = mutate(mutant, draw)
        try:
            told = problem_of(mutant)
        except Exception as error:
            told = f"{type(error).__name__}: {error}"
        if told in ("refused", "theirs", "same"):
            ends[told] += 1
        else:
            problems.append(f"mutant {number}, {original.name}: {done}: {told}")
    assert not problems, f"{len(problems)} of {count}:\n" + "\n".join(problems)[:8000]
    return ends


def test_some_folders(originals: list[Path], tmp_path: Path) -> None:
    ends = go_through(FEW, 0, originals, tmp_path)
    assert min(ends["refused"] + ends["theirs"], ends["same"]) > FEW // 10  # neither all, nor none


@pytest.mark.long
def test_many_folders(originals: list[Path], tmp_path: Path) -> None:
    print(go_through(MANY, 1, originals, tmp_path))


@pytest.mark.long
def test_every_key_in_every_class(originals: list[Path], tmp_path: Path) -> None:
    """One key is added to one export at a time, each with each."""
    problems = list[str]()
    for original in originals:
        config = json.loads((original / "config.json").read_text())
        shutil.copytree(original, tmp_path / original.name)
        for key, value in ((key, value) for key, values in KEYS.items() for value in values):
            (tmp_path / original.name / "config.json").write_text(json.dumps(config | {key: value}))
            told = problem_of(tmp_path / original.name)
            if told not in ("refused", "theirs", "same"):
                problems.append(f"{original.name}: {key} = {value}: {told}")
    assert not problems, f"{len(problems)}:\n" + "\n".join(problems)[:8000]
