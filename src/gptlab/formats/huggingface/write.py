"""Write Hugging Face folders that transformers loads without gptlab and without a network.

A folder is written aside, compared with the model, and gets its name once it is complete.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path
from typing import Any, TypedDict

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from gptlab import __version__
from gptlab.data.hugging_face_files import CONFIG, GENERATION_CONFIG, TOKENIZER_CONFIG
from gptlab.data.tokenizer import FILE, Tokenizer
from gptlab.errors import ConfigError, ExportError
from gptlab.formats.huggingface.classes import FORMATS, MARK, MODELING, OWN, format_of, native_misfits
from gptlab.formats.huggingface.compare import compare
from gptlab.formats.huggingface.vocabulary import SPECIAL_TOKENS, write_tokenizer
from gptlab.formats.huggingface.wrap import MISSING, WEIGHTS, HuggingFaceModel
from gptlab.model.gpt import GPT, ModelConfig
from gptlab.outputs import Record, require_own_folder
from gptlab.parsing import parse_json
from gptlab.storage import file_sha256, whole_folder

CARD, CURVE = "README.md", "loss.png"

KIND = "export"
FILES = (
    CONFIG,
    GENERATION_CONFIG,
    WEIGHTS,
    FILE,
    TOKENIZER_CONFIG,
    SPECIAL_TOKENS,
    MODELING.name,
    CARD,
    CURVE,
)

# The result of an export: the class that loads it, why that is not one of transformers' own (None if it is), the
# largest difference of a logit between that class and the model in nats (None if not compared), and the file names.
Exported = TypedDict(
    "Exported", {"class": str, "remote_code": str | None, "max_diff": float | None, "files": list[str]}
)


def export(
    model: GPT | HuggingFaceModel,
    tokenizer: Tokenizer,
    out: Path,
    *,
    verify: bool = True,
    beside: Mapping[str, bytes] | None = None,
    of: str | None = None,
) -> Exported:
    """Write a folder for AutoModelForCausalLM and AutoTokenizer, in place of an earlier export of the same.

    The class is one of transformers' own if one computes the same; otherwise the folder brings its own file, and
    loading it takes trust_remote_code=True. Rows of the vocabulary that only pad it are left out.

    Args:
        model: with weights in float32.
        tokenizer: the one it was trained with.
        out: the folder.
        verify: compare ids, logits and greedy text with transformers' before the folder gets its name.
        beside: the card and its pictures.
        of: the fingerprint of the run or the model; None if unknown, and then any export is replaced.

    Raises:
        ConfigError: `out` holds something else.
        ExportError: no class holds the model, the tokenizer is another model's, `out` cannot be written, transformers
            is not installed, or it loads another model.
    """
    if isinstance(model, HuggingFaceModel):
        raise ExportError(f"{out}: the model is already a Hugging Face folder; copy that folder")
    architecture = format_of(model.config)
    if verify:
        _require_transformers()
    model = fit_vocabulary(model, tokenizer)
    out = out.resolve()
    try:
        require_own_export(out, of)
        _refuse_unknown(out, of, model, architecture)
        with whole_folder(out) as aside:
            _write(model, tokenizer, architecture, aside, beside or {}, of)
            max_diff = compare(model, tokenizer, aside) if verify else None
            files = [name for name in FILES if (aside / name).exists()]
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ExportError(f"{out}: cannot be written ({reason}); choose another folder") from error
    reason = None if FORMATS[architecture].native else _why_own(model.config)
    return {"class": architecture, "remote_code": reason, "max_diff": max_diff, "files": files}


def _why_own(config: ModelConfig) -> str:
    nearest, needs = next(iter(native_misfits(config).items()))
    return f"no class of transformers holds this model; the nearest, {nearest}, needs {', '.join(needs)}"


def fit_vocabulary(model: GPT, tokenizer: Tokenizer) -> GPT:
    """Leave out the rows of the vocabulary that the tokenizer does not use.

    Raises:
        ExportError: the tokenizer has more ids than the model has rows.
    """
    ids, rows = tokenizer.vocab_size, model.config.vocab_size
    if ids > rows:
        raise ExportError(
            f"tokenizer {tokenizer.name} has {ids:,} ids but the model only {rows:,}; "
            "export the model with the tokenizer that it was trained with"
        )
    return _cut_vocabulary(model, ids) if ids < rows else model


def _cut_vocabulary(model: GPT, rows: int) -> GPT:
    state = model.state_dict()
    for name in ("embed.weight", "unembed.weight"):
        if name in state:
            state[name] = state[name][:rows]
    with torch.random.fork_rng(devices=[]):
        cut = GPT(replace(model.config, vocab_size=rows))
    cut.load_state_dict(state)
    return cut.to(model.embed.weight.device)


def _require_transformers() -> None:
    try:
        import_module("transformers")
    except ImportError as error:
        raise ExportError(f"comparing the export with the model: {MISSING}") from error


def require_own_export(out: Path, of: str | None) -> None:
    """Refuse a folder that an export must not replace, before the work begins.

    Raises:
        ConfigError: the folder holds foreign files, another model's export, or a card that somebody changed.
    """
    mark = read_mark(out)
    require_own_folder(out, KIND, of, _record(out, mark) if mark is not None else None)
    if (out / CARD).exists() and file_sha256(out / CARD) != (mark or {}).get("card"):
        raise ConfigError(
            f"{out}: somebody changed its {CARD}; move that file elsewhere, or choose another folder"
        )


def _record(out: Path, mark: Mapping[str, Any]) -> Record:
    classes = parse_json((out / CONFIG).read_bytes()).get("architectures")
    name = f"a {classes[0]}" if isinstance(classes, list) and classes else "another model"
    return Record(KIND, mark_of(mark), name, frozenset(FILES))


def mark_of(mark: Mapping[str, Any]) -> str | None:
    """Return the fingerprint in an export's mark; None if it was written from Python, where none is known."""
    of = mark.get("of")
    return of if isinstance(of, str) else None


def _refuse_unknown(out: Path, of: str | None, model: GPT, architecture: str) -> None:
    """Refuse to replace an export without a fingerprint, unless it holds this very model."""
    mark = read_mark(out)
    if of is None or mark is None or mark_of(mark) is not None or _holds(out, model, architecture):
        return
    raise ExportError(
        f"{out}: holds an export with other weights, which does not say whose it is; choose another folder or "
        "delete this one"
    )


def _holds(out: Path, model: GPT, architecture: str) -> bool:
    try:
        there = load_file(out / WEIGHTS)
    except (OSError, SafetensorError):
        return False
    here = dict(FORMATS[architecture].tensors(model.state_dict(), model.config))
    return there.keys() == here.keys() and all(torch.equal(there[name], here[name]) for name in here)


def read_mark(folder: Path) -> Mapping[str, Any] | None:
    """Return the mark of an export of ours; None for any other folder."""
    try:
        mark = parse_json((folder / CONFIG).read_bytes())[MARK]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return mark if isinstance(mark, dict) else None


def _write(
    model: GPT,
    tokenizer: Tokenizer,
    architecture: str,
    folder: Path,
    beside: Mapping[str, bytes],
    of: str | None,
) -> None:
    for name, content in beside.items():
        (folder / name).write_bytes(content)
    form, config = FORMATS[architecture], model.config
    end = tokenizer.document_start("a model of single characters cannot be exported")
    said: dict[str, Any] = {"version": __version__, "model": asdict(config)}
    said |= {"of": of} if of is not None else {}
    said |= {"card": file_sha256(folder / CARD)} if CARD in beside else {}
    _write_json(
        folder / CONFIG,
        {
            "architectures": [architecture],
            **form.written(config),
            "bos_token_id": end,
            "eos_token_id": end,
            # Some classes have another default, whose embedding they would not train.
            "pad_token_id": None,
            "torch_dtype": "float32",
            MARK: said,
        },
    )
    # Without a length, a pipeline asks for more tokens than a small context with learned positions can hold.
    ends = {"bos_token_id": end, "eos_token_id": end, "pad_token_id": end}
    _write_json(folder / GENERATION_CONFIG, ends | {"max_length": config.context})
    tensors = {
        # Copied, because safetensors refuses tensors that share memory.
        name: tensor.detach().to("cpu", torch.float32, copy=True, memory_format=torch.contiguous_format)
        for name, tensor in form.tensors(model.state_dict(), config)
    }
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    write_tokenizer(tokenizer, folder, config.context)
    if architecture == OWN:
        shutil.copyfile(MODELING, folder / MODELING.name)


def _write_json(path: Path, content: Mapping[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
