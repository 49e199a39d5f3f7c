"""`gptlab data verify`."""

from pathlib import Path
from typing import Any


def run(folder: Path, /) -> dict[str, Any]:
    """Check every shard of a prepared folder against its manifest.

    Args:
        folder: the prepared folder.
    """
    from gptlab.data.manifest import told
    from gptlab.data.verify import verify

    facts = verify(folder)
    print(f"{folder}: all as the manifest says, {told(facts)}")
    return facts
