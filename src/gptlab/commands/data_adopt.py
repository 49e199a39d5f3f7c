"""`gptlab data adopt`."""

from pathlib import Path
from typing import Any


def run(folder: Path, /, *, tokenizer: str = "gpt2", val: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Write a manifest for a folder of llm.c's or modded-nanogpt's .bin files; the files stay unchanged.

    Args:
        folder: where the files are.
        tokenizer: the one that made them: gpt2, bytes, or a file from `gptlab data tokenizer`.
        val: the validation files; none means those with val in their name, else the first.
    """
    from gptlab.data.adopt import adopt
    from gptlab.data.manifest import told

    facts = adopt(folder, tokenizer=tokenizer, val=val)
    done = "already adopted" if facts["already_adopted"] else "adopted"
    print(f"{folder}: {done}, {told(facts)}; validation: {facts['validation']}")
    return facts
