"""`gptlab data fetch`."""

from pathlib import Path
from typing import Any


def run(name: str, out: Path, /, *, max_tokens: int | None = None, tokenizer: str = "gpt2") -> dict[str, Any]:
    """Download ready-made shards from the Hugging Face hub; run again to continue.

    Args:
        name: a ready-made set from `gptlab data list`, or hf:OWNER/NAME[:PATTERN].
        out: the data folder.
        max_tokens: stop after the shard that reaches this many training tokens; None means all.
        tokenizer: the one that made them: gpt2, bytes, or a file from `gptlab data tokenizer`.
    """
    from gptlab.data.fetch import fetch
    from gptlab.data.manifest import told

    facts = fetch(name, out, max_tokens=max_tokens, tokenizer=tokenizer)
    done = f"{facts['fetched']} shard(s) fetched" if facts["fetched"] else "complete"
    print(f"{out}: {done}, {told(facts)}; validation: {facts['validation']}")
    return facts
