"""`gptlab export`."""

from pathlib import Path
from typing import Any, Literal

from gptlab.errors import ConfigError


def run(
    model: Path,
    out: Path,
    /,
    *,
    to: Literal["huggingface", "gguf"] = "huggingface",
    dtype: Literal["float32", "float16", "bfloat16"] = "float32",
    licence: str | None = None,
    verify: bool = True,
) -> dict[str, Any]:
    """Export a model as a Hugging Face folder, or as a GGUF file for llama.cpp.

    Args:
        model: a run (its best checkpoint), a checkpoint, or a Hugging Face folder.
        out: the folder to write, or the .gguf file.
        to: what to write.
        dtype: number format of a GGUF file's matrices.
        licence: the hub's identifier of the model's licence (mit, apache-2.0 ...), for the card or the file.
        verify: load it in transformers, or in llama.cpp if llama-cpp-python is installed, and compare its logits with
            the model's.
    """
    if to == "huggingface" and dtype != "float32":
        raise ConfigError(
            f"--dtype {dtype}: is for --to gguf; a Hugging Face folder holds float32, and whoever loads it chooses"
        )
    from gptlab.actions.export import compared, export_file, export_folder
    from gptlab.amounts import quantity

    if to == "gguf":
        written = export_file(model, out, dtype=dtype, licence=licence, verify=verify)
        print(
            f"{written['file']}: {written['architecture']} of llama.cpp, {dtype}, "
            f"{quantity(written['bytes'], 'B')}, {compared(written['max_diff'])}"
        )
        if verify and written["max_diff"] is None:
            print("  llama-cpp-python is not installed, so llama.cpp has not loaded it")
        return {**written}
    facts = export_folder(model, out, verify=verify, licence=licence)
    print(f"{out}: {facts['class']}, {compared(facts['max_diff'])}")
    if facts["remote_code"] is not None:
        print(f"  {facts['remote_code']}; loading it needs trust_remote_code=True")
    return {**facts}
