"""Write a model and its tokenizer as one GGUF file."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, TypedDict

import torch
from torch import Tensor

from gptlab.data.tokenizer import Tokenizer
from gptlab.errors import ExportError
from gptlab.formats.gguf.architectures import architecture_of, tensors_of
from gptlab.formats.gguf.compare import compare
from gptlab.formats.gguf.tokenizer_keys import vocabulary_keys
from gptlab.formats.huggingface.classes.format import STILL
from gptlab.formats.huggingface.wrap import HuggingFaceModel
from gptlab.formats.huggingface.write import fit_vocabulary
from gptlab.model.gpt import GPT, ModelConfig
from gptlab.outputs import Record, require_own_file
from gptlab.storage import whole_file

GGUFDType = Literal["float32", "float16", "bfloat16"]


@dataclass(frozen=True)
class Numbers:
    """A number format for matrices."""

    torch: torch.dtype
    tensor: str
    """gguf's name for it."""
    file: str
    """gguf's name for a file with such matrices."""
    tolerance: float
    """How far off llama.cpp's logits may be, in their standard deviations.

    At least ten times what was seen (2e-4, 2e-3, 1e-2), and far less than any mistake makes. In float32 the
    difference comes from GELU, which ggml looks up in a table of float16.
    """


KIND = "GGUF file"
OF = "gptlab.of"  # the key that says whose a file is
POSITIONS = "transformer.wpe.weight"  # added to the embeddings, for which llama.cpp needs float32
MISSING = 'this needs the package gguf: pip install "gptlab[gguf]"'


class ExportedGGUF(TypedDict):
    """The result of an export."""

    architecture: str
    """llama.cpp's."""
    file: str
    dtype: str
    bytes: int
    max_diff: float | None
    """The largest difference of a logit between llama.cpp and the model, in nats; None if not compared."""


def export_gguf(
    model: GPT | HuggingFaceModel,
    tokenizer: Tokenizer,
    out: Path,
    *,
    name: str,
    dtype: GGUFDType = "float32",
    licence: str | None = None,
    verify: bool = True,
    of: str | None = None,
) -> ExportedGGUF:
    """Write a model and its tokenizer as one GGUF file.

    Args:
        model: with weights in float32.
        tokenizer: the one it was trained with.
        out: the file, or a folder that receives NAME-DTYPE.gguf.
        name: of the model.
        dtype: number format of the matrices; norms, biases and positions stay float32.
        licence: the hub's identifier of the model's licence.
        verify: compare ids and logits with llama.cpp's, if llama-cpp-python is installed, before the file gets its
            name.
        of: the fingerprint of the run or the model, stored in the file.

    Raises:
        ExportError: llama.cpp does not run such a model or tokenizer, or computes other logits; the file cannot be
            written; or the package gguf is not installed.
    """
    if isinstance(model, HuggingFaceModel):
        raise ExportError("to gguf: the model is not one of gptlab's; use llama.cpp's convert_hf_to_gguf.py")
    _, architecture = architecture_of(model.config)
    vocabulary = vocabulary_keys(tokenizer)
    model = fit_vocabulary(model, tokenizer)
    try:
        gguf: Any = import_module("gguf")
    except ImportError as error:
        raise ExportError(f"to gguf: {MISSING}") from error
    file = gguf_file(out, name, dtype)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.is_dir():
            raise ExportError(f"{file}: is a folder; choose another name")
        with whole_file(file) as written:
            writer = gguf.GGUFWriter(written.name, architecture.name)
            _write_keys(writer, gguf, model.config, dict(architecture.keys(model.config)), name, dtype)
            if licence is not None:
                writer.add_license(licence)
            if of is not None:
                writer.add_string(OF, of)
            _write_vocabulary(writer, vocabulary)
            _write_tensors(writer, gguf, model.state_dict(), model.config, dtype)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
            writer.close()
            tolerance = DTYPES[dtype].tolerance
            max_diff = compare(model, tokenizer, Path(written.name), tolerance) if verify else None
    except OSError as error:
        raise ExportError(f"{file}: cannot be written ({error.strerror}); choose another place") from error
    return {
        "architecture": architecture.name,
        "file": str(file),
        "dtype": dtype,
        "bytes": file.stat().st_size,
        "max_diff": max_diff,
    }


def gguf_file(out: Path, name: str, dtype: GGUFDType) -> Path:
    """Return the file to write for OUT, which may be a folder."""
    return out if out.suffix == ".gguf" else out / f"{name}-{dtype}.gguf"


def require_own_gguf(file: Path, of: str) -> None:
    """Refuse a file that an export must not replace, before the work begins.

    Raises:
        ConfigError: the file is another model's, or not from gptlab.
    """
    require_own_file(file, KIND, of, _record(file) if file.is_file() else None)


def _record(file: Path) -> Record | None:
    try:
        fields: Any = import_module("gguf").GGUFReader(file).fields
        return Record(KIND, fields[OF].contents(), fields["general.name"].contents())
    except Exception:  # a foreign file raises whatever it likes
        return None


def _write_keys(
    writer: Any, gguf: Any, c: ModelConfig, own: dict[str, Any], name: str, dtype: GGUFDType
) -> None:
    writer.add_name(name)
    writer.add_file_type(gguf.LlamaFileType[DTYPES[dtype].file])
    writer.add_vocab_size(c.vocab_size)
    writer.add_context_length(c.context)
    writer.add_embedding_length(c.n_embd)
    writer.add_block_count(c.n_layer)
    writer.add_feed_forward_length(c.mlp_width)
    writer.add_head_count(c.n_head)
    match c.norm:
        case "layernorm":
            writer.add_layer_norm_eps(c.norm_eps)
        case "rmsnorm" | "rmsnorm_no_gain":
            writer.add_layer_norm_rms_eps(c.norm_eps)
        case _:
            raise _no_keys("norm", c.norm)
    if writer.arch != "gpt2":  # it has a table of positions, and a key/value head for every query head
        writer.add_head_count_kv(c.kv_heads)
        _write_rope(writer, gguf, c)
    for key, value in own.items():
        (writer.add_array if isinstance(value, list) else writer.add_float32)(key, value)


def _write_rope(writer: Any, gguf: Any, c: ModelConfig) -> None:
    writer.add_rope_dimension_count(c.head_dim)
    writer.add_rope_freq_base(c.rope_theta)
    match c.position:
        case "rope":
            pass
        case "none":
            writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
            writer.add_rope_scaling_factor(STILL)
        case _:
            raise _no_keys("position", c.position)


def _no_keys(switch: str, value: str) -> ExportError:
    return ExportError(
        f"to gguf: {switch} = {value}: src/gptlab/formats/gguf/write.py has no keys for it; add them to _write_keys"
    )


def _write_vocabulary(writer: Any, keys: Mapping[str, Any]) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(keys["tokens"])
    writer.add_token_types(keys["token_type"])
    writer.add_token_merges(keys["merges"])
    writer.add_bos_token_id(keys["bos_token_id"])
    writer.add_eos_token_id(keys["eos_token_id"])
    writer.add_add_bos_token(False)


def _write_tensors(
    writer: Any, gguf: Any, state: Mapping[str, Tensor], c: ModelConfig, dtype: GGUFDType
) -> None:
    architecture = next(arch for arch, name in gguf.MODEL_ARCH_NAMES.items() if name == writer.arch)
    names = gguf.get_tensor_name_map(architecture, c.n_layer)
    numbers = DTYPES[dtype]
    for theirs, tensor in tensors_of(state, c):
        name = names.get_name(theirs, try_suffixes=(".weight", ".bias"))
        assert name is not None, theirs
        held = DTYPES["float32"] if tensor.ndim == 1 or theirs == POSITIONS else numbers
        values = tensor.detach().to("cpu", held.torch).contiguous()
        # numpy has no bfloat16; the file takes the bytes as they are.
        array = values.view(torch.uint8 if values.dtype == torch.bfloat16 else values.dtype).numpy()
        writer.add_tensor(name, array, raw_dtype=gguf.GGMLQuantizationType[held.tensor])


DTYPES: dict[GGUFDType, Numbers] = {
    "float32": Numbers(torch.float32, "F32", "ALL_F32", 0.005),
    "float16": Numbers(torch.float16, "F16", "MOSTLY_F16", 0.03),
    "bfloat16": Numbers(torch.bfloat16, "BF16", "MOSTLY_BF16", 0.15),
}
