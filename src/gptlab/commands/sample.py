"""`gptlab sample`."""

import sys
from pathlib import Path
from typing import Any, Literal


def run(
    model: Path,
    /,
    *,
    prompt: str = "",
    max_tokens: int = 100,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    samples: int = 1,
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
) -> dict[str, Any]:
    """Write text with a model.

    Args:
        model: a run (its best checkpoint), a checkpoint, or a Hugging Face folder.
        prompt: how the text begins; an empty one starts a document.
        max_tokens: the most new tokens.
        temperature: divides the logits; 0 takes the likeliest token.
        top_k: draw from the k likeliest tokens; None means all.
        top_p: draw from the likeliest tokens that together reach this probability; None means all.
        seed: of the draws; None means a different one every time.
        samples: texts to write from the prompt.
        dtype: data type of matrix multiplications; auto is a 16-bit one if the device multiplies it natively, else
            float32, in which texts are the same everywhere.
    """
    import torch

    from gptlab.loading import load
    from gptlab.machine.device import DTypeName, choose_device, supported_dtype, warn_if_emulated
    from gptlab.sample import kept_tokens, prompt_ids, sample_text, stream_text

    loaded, tokenizer = load(model)
    device = choose_device("auto")
    number_format: DTypeName = supported_dtype(device) if dtype == "auto" else dtype
    warn_if_emulated(number_format, device, "--dtype")
    given = len(prompt_ids(tokenizer, prompt))
    read = kept_tokens(given, loaded.context)
    if read < given:
        print(
            f"the prompt has {given} tokens, the context {loaded.context}: the last {read} are read",
            file=sys.stderr,
        )
    options: Any = {
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "seed": seed,
        "dtype": getattr(torch, number_format),
    }
    if samples == 1:
        pieces = stream_text(loaded, tokenizer, prompt, **options)
        # Draw the first piece before showing the prompt: an option may still be refused.
        texts = [next(pieces, "")]
        print(prompt + texts[0], end="", flush=True)
        for piece in pieces:
            print(piece, end="", flush=True)
            texts[0] += piece
        print()
    else:
        texts = sample_text(loaded, tokenizer, prompt, samples=samples, **options)
        for number, text in enumerate(texts, 1):
            print(f"--- {number}\n{prompt}{text}")
    return {"prompt": prompt, "texts": texts, "dtype": number_format}
