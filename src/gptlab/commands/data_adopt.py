"""`gptlab data adopt`."""

from pathlib import Path
from typing import Any


def run(folder: Path, /, *, tokenizer: str = "gpt2", val: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Give a folder of llm.c's or modded-nanogpt's .bin files a manifest; the files stay as they are.

    Args:
        folder: where the files lie.
        tokenizer: the one that made them: gpt2, bytes, or a file of `gptlab data tokenizer`.
        val: the files that validate; none is those with val in their name, else the first.
    """
    from gptlab.data.adopt import adopt
    from gptlab.data.manifest import told

    facts = adopt(folder, tokenizer=tokenizer, val=val)
    done = "was adopted already" if facts["already_adopted"] else "adopted"
    print(f"{folder}: {done}, {told(facts)}; validation: {facts['validation']}")
    return facts
