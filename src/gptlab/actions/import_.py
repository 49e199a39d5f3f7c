"""`gptlab import`: a foreign model as a run of step 0, to evaluate, train further and export.

OUT/ config.toml                       a recipe that trains it further: [model] as found, [train] init_from
     checkpoints/step_00000000/        see runs/checkpoint.py; the optimizer is empty
     latest
"""

import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from gptlab import recipe
from gptlab.amounts import quantity
from gptlab.data.characters import AS_JSON
from gptlab.data.hugging_face_files import CONFIG
from gptlab.data.load_tokenizer import TOKENIZERS, load_tokenizer
from gptlab.data.tokenizer import Tokenizer
from gptlab.errors import CheckpointError, ConfigError, DataError, ExportError
from gptlab.formats.huggingface.compare import compare_logits
from gptlab.formats.huggingface.read import read_ours
from gptlab.formats.huggingface.wrap import folder_tokenizer
from gptlab.formats.llmc import MAGIC, read_llmc
from gptlab.formats.nanogpt import RopePairs, read_nanogpt
from gptlab.model.gpt import GPT, ModelConfig
from gptlab.model.size import measure
from gptlab.outputs import require_empty
from gptlab.runs import checkpoint
from gptlab.runs.folder import RECIPE
from gptlab.storage import whole_folder

Found = tuple[ModelConfig, dict[str, Tensor]]
GPT2_ROWS = range(50257, 50433)  # GPT-2's vocabulary, bare or padded to a multiple of at most 256


def import_model(
    source: Path,
    out: Path,
    *,
    tokenizer: str | None = None,
    like: Path | None = None,
    rope_pairs: RopePairs = "halves",
    verify: bool = True,
) -> dict[str, Any]:
    """Write a run folder of step 0 and print how to continue.

    Arguments as in `gptlab import`.

    Raises:
        GptlabError: the source is damaged, unsafe, of an unknown kind or not one of our models; its tokenizer is
            unknown; or `out` holds files.
    """
    require_empty(out)  # an import is never replaced: it may have been trained further
    kind = _kind(source)
    model_like = recipe.load([like]).model if like is not None else None
    if kind != "nanoGPT" and (model_like is not None or rope_pairs != "halves"):
        raise ConfigError(
            f"{source}: comes from {kind} and says all that itself; leave out --like and --rope-pairs"
        )
    config, state = READERS[kind](source, model_like, rope_pairs)
    reader = _tokenizer(source, config, tokenizer)
    difference = _compare(source, config, state) if verify and kind == "Hugging Face" else None
    with whole_folder(out.resolve()) as aside:
        recipe_text = recipe.to_toml(recipe.RunConfig(model=config), ["model"])
        start = f"[train]\ninit_from = {json.dumps(str(out.resolve()))}\n"
        (aside / RECIPE).write_text(f"{recipe_text}\n{start}", encoding="utf-8")
        identity = {
            "model": asdict(config),
            "tokenizer": {"name": reader.name, "hash": reader.hash},
            "imported": {"kind": kind, "from": str(source)},
        }
        progress = {"step": 0, "tokens": 0, "best": None}
        checkpoint.save(aside, progress | identity, model=state, optimizer={}, files=reader.files)
    parameters = measure(config).parameters
    compared = f", logits equal transformers' to {difference:.1e}" if difference is not None else ""
    print(f"{out}: {quantity(parameters)} parameters of {kind}, tokenizer {reader.name}{compared}")
    if reader.end_of_text < reader.vocab_size:
        print(f"  to train it further: gptlab train {out / 'config.toml'} --data.path DATA --out RUN")
    else:
        print(f"  to sample from it: gptlab sample {out} --prompt TEXT")
    return {
        "kind": kind,
        "parameters": parameters,
        "tokenizer": reader.name,
        "max_diff": difference,
        "model": asdict(config),
    }


def _kind(source: Path) -> str:
    if source.is_dir():
        if (source / CONFIG).is_file():
            return "Hugging Face"
        raise CheckpointError(f"{source}: has no {CONFIG}; if it is a run of gptlab, use it as it is")
    try:
        with source.open("rb") as file:
            head = file.read(4)
    except OSError as error:
        raise CheckpointError(f"{source}: cannot be read ({error.strerror})") from None
    for begin, kind in BEGINNINGS.items():
        if head.startswith(begin):
            return kind
    raise CheckpointError(
        f"{source}: begins with {head!r}, like no checkpoint that gptlab reads; pass a Hugging Face folder, llm.c's "
        ".bin, or a file of torch.save"
    )


def _tokenizer(source: Path, config: ModelConfig, wanted: str | None) -> Tokenizer:
    if wanted is not None:
        reader = load_tokenizer(wanted)
    elif source.is_dir():
        reader = folder_tokenizer(source)
    elif config.vocab_size in GPT2_ROWS:
        reader = load_tokenizer("gpt2")
    else:
        raise ConfigError(
            f"{source}: has a vocabulary of {config.vocab_size:,} and does not name its tokenizer; name it with "
            f'--tokenizer; if nanoGPT left it in meta.pkl, first write meta.json: python -c "{AS_JSON}"'
        )
    if reader.vocab_size > config.vocab_size:
        raise ConfigError(
            f"tokenizer {reader.name}: has {reader.vocab_size:,} ids, but the model's vocabulary only "
            f"{config.vocab_size:,}; name the tokenizer of its training with --tokenizer"
        )
    return _by_name(reader)


def _by_name(reader: Tokenizer) -> Tokenizer:
    """Return our own tokenizer with the same vocabulary if there is one, so that data prepared with it fits."""
    for name, make in TOKENIZERS.items():
        if name == "gpt2" and reader.vocab_size != GPT2_ROWS.start:
            continue  # the vocabulary alone rules it out, without a download
        try:
            ours = make()
        except DataError:  # not available here, so it has prepared no data here
            continue
        if ours.hash == reader.hash and ours.frame == reader.frame:
            return ours
    return reader


def _compare(source: Path, config: ModelConfig, state: Mapping[str, Tensor]) -> float | None:
    model = GPT(config)
    model.load_state_dict(state, assign=True)
    try:
        return compare_logits(model.eval(), source)
    except ExportError as error:
        raise CheckpointError(f"{source}: {error}") from None


BEGINNINGS = {struct.pack("<i", MAGIC): "llm.c", b"PK": "nanoGPT", b"\x80": "nanoGPT"}

READERS: dict[str, Callable[[Path, ModelConfig | None, RopePairs], Found]] = {
    "Hugging Face": lambda source, _like, _pairs: read_ours(source),
    "llm.c": lambda source, _like, _pairs: read_llmc(source),
    "nanoGPT": read_nanogpt,
}
