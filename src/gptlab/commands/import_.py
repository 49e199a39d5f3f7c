"""`gptlab import`."""

from pathlib import Path
from typing import Any, Literal


def run(
    source: Path,
    out: Path,
    /,
    *,
    tokenizer: str | None = None,
    like: Path | None = None,
    rope_pairs: Literal["halves", "neighbours"] = "halves",
    verify: bool = True,
) -> dict[str, Any]:
    """Turn a Hugging Face folder, llm.c's .bin, or nanoGPT's ckpt.pt and files like it, into a run.

    Args:
        source: the folder or the file.
        out: the run folder to write, at step 0.
        tokenizer: gpt2, bytes, or a file, for a character-level model nanoGPT's `stoi` as JSON; None means the
            folder's own, or GPT-2's if the vocabulary has its size.
        like: for nanoGPT's relatives, a recipe whose [model] says what the tensors do not show.
        rope_pairs: for nanoGPT's relatives, the channels that RoPE rotates together: i and i + K/2, or 2i and 2i + 1.
        verify: load a Hugging Face folder in transformers too and compare its logits with the model's.
    """
    from gptlab.actions.import_ import import_model

    return import_model(source, out, tokenizer=tokenizer, like=like, rope_pairs=rope_pairs, verify=verify)
