"""Models to Hugging Face folders that transformers loads without gptlab and without a network.

A folder is written aside, compared with the model, and gets its name when it is complete.
"""

import json
import os
import shutil
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import TypedDict

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from gptlab import __version__
from gptlab.data.tokenizer import Tokenizer
from gptlab.errors import ExportError
from gptlab.model.gpt import GPT

from .foreign import CONFIG, MISSING, TOKENIZER, WEIGHTS, HuggingFaceModel, load_causal_lm, quiet_transformers
from .formats import FORMATS, format_of
from .vocabulary import SPECIAL_TOKENS, TOKENIZER_CONFIG, write_tokenizer

GENERATION_CONFIG = "generation_config.json"
FILES = (CONFIG, GENERATION_CONFIG, WEIGHTS, TOKENIZER, TOKENIZER_CONFIG, SPECIAL_TOKENS)
MARK = "gptlab"  # the key of config.json that tells our own folders

# Two computations of a logit in float32 may differ by so many nats, and by this share of the largest logit,
# which is about a hundred in OpenAI's GPT-2.
ABSOLUTE_TOLERANCE, RELATIVE_TOLERANCE = 1e-4, 1e-5

# Three scripts, an emoji, all kinds of white space, and what only looks like a special token.
PROBE = (
    "Hello, world!  It's \u00fcber 1234.\n\n\t\u4f60\u597d, \u043f\u0440\u0438\u0432\u0435\u0442 \U0001f642"
    "\r\n<|endoftext|> def f(x):\n    return x "
)

# What an export did: the class of transformers that loads it, the largest difference of a logit between that
# class and the model in nats (None is not compared), and the names of the files.
Exported = TypedDict("Exported", {"class": str, "max_diff": float | None, "files": list[str]})


def export(
    model: GPT | HuggingFaceModel, tokenizer: Tokenizer, out: Path, *, verify: bool = True
) -> Exported:
    """Write a folder for AutoModelForCausalLM and AutoTokenizer, in place of an earlier export.

    Args:
        model: with weights in float32.
        tokenizer: the one it was trained with.
        out: the folder.
        verify: whether transformers loads the folder, and its ids and logits are compared, before it gets its
            name.

    Raises:
        ExportError: no class holds the model, the tokenizer is another model's, `out` is in use or cannot be
            written, transformers is not installed, or what it loads is not the model.
    """
    if isinstance(model, HuggingFaceModel):
        raise ExportError(f"{out}: the model is a Hugging Face folder as it is; copy that folder")
    architecture = format_of(model.config)
    if verify:
        _require_transformers()
    ids, rows = tokenizer.vocab_size, model.config.vocab_size
    if ids > rows:
        raise ExportError(
            f"tokenizer {tokenizer.name} has {ids:,} ids and the model {rows:,}; "
            "export the model with the tokenizer that it was trained with"
        )
    out = out.resolve()
    aside = out.with_name(f".{out.name}.exporting")
    try:
        _refuse_folder_in_use(out)
        with _made_aside(aside):
            _write(model, tokenizer, architecture, aside)
            max_diff = _compare(model, tokenizer, aside) if verify else None
            _replace(out, aside)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ExportError(f"{out}: cannot be written ({reason}); choose another folder") from error
    return {"class": architecture, "max_diff": max_diff, "files": list(FILES)}


def _require_transformers() -> None:
    try:
        import_module("transformers")
    except ImportError as error:
        raise ExportError(f"comparing the export with the model: {MISSING}") from error


def _refuse_folder_in_use(out: Path) -> None:
    if not out.exists():
        return
    if not out.is_dir():
        raise ExportError(f"{out}: is a file; choose a folder")
    names = {file.name for file in out.iterdir()}
    foreign = names - set(FILES) if _exported_by_us(out) else names
    if foreign:
        raise ExportError(
            f"{out}: holds {min(foreign)}, which no export wrote; choose another folder or empty this one"
        )


def _exported_by_us(folder: Path) -> bool:
    try:
        return MARK in json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return False


@contextmanager
def _made_aside(aside: Path) -> Generator[None]:
    shutil.rmtree(aside, ignore_errors=True)  # of an export that was killed
    aside.mkdir(parents=True)
    try:
        yield
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _replace(out: Path, complete: Path) -> None:
    for file in complete.iterdir():
        with file.open("rb+") as written:
            os.fsync(written.fileno())
    old = complete.with_suffix(".old")
    if out.exists():
        shutil.rmtree(old, ignore_errors=True)
        out.rename(old)
    complete.rename(out)
    shutil.rmtree(old, ignore_errors=True)


def _write(model: GPT, tokenizer: Tokenizer, architecture: str, folder: Path) -> None:
    form, config, end = FORMATS[architecture], model.config, tokenizer.end_of_text
    _write_json(
        folder / CONFIG,
        {
            "architectures": [architecture],
            **form.config(config),
            "vocab_size": config.vocab_size,
            "tie_word_embeddings": config.tie_embeddings,
            "bos_token_id": end,
            "eos_token_id": end,
            "torch_dtype": "float32",
            MARK: {"version": __version__, "model": asdict(config)},
        },
    )
    # Without a length, a pipeline asks for more tokens than a small context with learned positions can hold.
    length = {"max_length": config.context}
    ends = {"bos_token_id": end, "eos_token_id": end, "pad_token_id": end}
    _write_json(folder / GENERATION_CONFIG, ends | length)
    tensors = {
        # Copied, since safetensors refuses parts of one tensor.
        name: tensor.detach().to("cpu", torch.float32, copy=True, memory_format=torch.contiguous_format)
        for name, tensor in form.tensors(model.state_dict(), config)
    }
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    write_tokenizer(tokenizer, folder, config.context)


def _write_json(path: Path, content: Mapping[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _compare(model: GPT, tokenizer: Tokenizer, folder: Path) -> float:
    text_ids = _compare_ids(tokenizer, folder)
    theirs = load_causal_lm(folder).to(model.embed.weight.device)
    any_ids = torch.randint(
        model.config.vocab_size, (model.config.context,), generator=torch.Generator().manual_seed(0)
    )
    return max(_compare_logits(model, theirs, ids) for ids in (any_ids, text_ids[: model.config.context]))


def _compare_ids(tokenizer: Tokenizer, folder: Path) -> torch.Tensor:
    from transformers import AutoTokenizer

    with quiet_transformers():
        theirs = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        # It reads special tokens out of ordinary text unless told otherwise; ours never does.
        their_ids = theirs(PROBE, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    ids = tokenizer.encode(PROBE)
    if their_ids != ids:
        raise ExportError(f"tokenizer {tokenizer.name}: transformers would cut text into other ids")
    return torch.tensor(ids)


@torch.inference_mode()
def _compare_logits(model: GPT, theirs: torch.nn.Module, ids: torch.Tensor) -> float:
    batch = ids[None].to(model.embed.weight.device)
    logits = model(batch)
    diff = float((logits - theirs(input_ids=batch).logits).abs().max())
    tolerance = ABSOLUTE_TOLERANCE + RELATIVE_TOLERANCE * float(logits.abs().max())
    if not diff <= tolerance:  # nor may it be no number
        raise ExportError(
            f"the export's logits are up to {diff:.2g} nats from the model's, more than {tolerance:.2g}; "
            "nothing was written"
        )
    return diff
