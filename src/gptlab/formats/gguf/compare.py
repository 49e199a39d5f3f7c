"""A GGUF file in llama.cpp compared with the model it was made from: ids and logits."""

import ctypes
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gptlab.data.tokenizer import Tokenizer
from gptlab.errors import ExportError
from gptlab.formats.huggingface.compare import PROBE, any_ids, logits_at, places_of
from gptlab.model.gpt import GPT

PIECE = 256  # tokens whose logits are in memory at once


def compare(model: GPT, tokenizer: Tokenizer, file: Path, tolerance: float) -> float | None:
    """Return the largest difference of a logit, in nats; None if llama-cpp-python is not installed.

    Args:
        model: in float32.
        tokenizer: its own.
        file: the GGUF file of both.
        tolerance: the largest acceptable difference, as a share of the logits' standard deviation.

    Raises:
        ExportError: llama.cpp loads another model.
    """
    try:
        import_module("llama_cpp")
    except ImportError:
        return None
    context = model.config.context
    llm = open_gguf(file, context)
    try:
        ids = tokenizer.encode(PROBE)
        if llm.tokenize(PROBE.encode(), add_bos=False, special=False) != ids:
            raise ExportError(f"tokenizer {tokenizer.name}: llama.cpp would split text into other ids")
        samples = (ids[:context], any_ids(model)[0].tolist())
        return max(_compare_logits(model, llm, sample, tolerance) for sample in samples)
    finally:
        llm.close()


def open_gguf(file: Path, context: int) -> Any:
    """Load a file in llama.cpp, with all logits and a float32 cache.

    Raises:
        ExportError: llama.cpp cannot load it.
    """
    llama: Any = import_module("llama_cpp")
    _silence(llama)
    threads = torch.get_num_threads()
    try:
        return llama.Llama(
            str(file),
            n_ctx=context,
            n_threads=threads,
            n_threads_batch=threads,
            n_gpu_layers=0,
            type_k=llama.GGML_TYPE_F32,
            type_v=llama.GGML_TYPE_F32,
            flash_attn=False,
            logits_all=True,
            verbose=False,
        )
    except ValueError as error:
        raise ExportError(
            f"to gguf: llama.cpp cannot load the file ({error}); update llama-cpp-python, or pass --no-verify"
        ) from None


@cache  # keeps the callback alive as long as the library
def _silence(llama: Any) -> Any:
    """Keep llama.cpp from printing the contents of the file."""

    def say_nothing(*_: object) -> None:
        pass

    callback = llama.llama_log_callback(say_nothing)
    llama.llama_log_set(callback, ctypes.c_void_p(0))
    return callback


@torch.inference_mode()
def _compare_logits(model: GPT, llm: Any, ids: list[int], tolerance: float) -> float:
    places, device = places_of(len(ids)), model.embed.weight.device
    logits = logits_at(model, torch.tensor([ids], device=device), places.to(device))[0].cpu()
    diff = float((logits - _logits_at(llm, ids, places)).abs().max())
    limit = tolerance * float(logits.std(-1).mean())
    if not diff <= limit:  # also true of NaN
        raise ExportError(
            f"llama.cpp's logits are up to {diff:.2g} nats from the model's, more than {limit:.2g}; "
            "nothing was written"
        )
    return diff


def _logits_at(llm: Any, ids: list[int], places: torch.Tensor) -> torch.Tensor:
    llm.reset()
    rows: list[np.ndarray] = []
    for start in range(0, len(ids), PIECE):
        llm.eval(ids[start : start + PIECE])
        rows += [np.array(llm.scores[place]) for place in places.tolist() if start <= place < start + PIECE]
        # A fresh array has room for all positions, but takes memory only where something is written.
        shape, kind = llm.scores.shape, llm.scores.dtype
        llm.scores = None
        llm.scores = np.empty(shape, kind)
    return torch.from_numpy(np.stack(rows))
