"""`gptlab data merge`."""

from pathlib import Path
from typing import Any


def run(out: Path, folders: tuple[Path, ...] = (), /) -> dict[str, Any]:
    """Put the parts of a preparation together.

    Args:
        out: the prepared folder, where the parts lie.
        folders: where parts lie that are not in OUT.
    """
    from gptlab.data.manifest import told
    from gptlab.data.prepare.prepare import merge

    facts = merge(out, folders)
    done = "was prepared already" if facts["already_prepared"] else f"merged in {facts['seconds']:.0f} s"
    print(f"{out}: {done}, {told(facts)}")
    return facts
