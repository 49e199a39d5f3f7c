"""`gptlab data merge`."""

from pathlib import Path
from typing import Any


def run(out: Path, folders: tuple[Path, ...] = (), /) -> dict[str, Any]:
    """Merge the parts of a preparation.

    Args:
        out: the prepared folder, where the parts are.
        folders: where the parts are that are not in OUT.
    """
    from gptlab.data.manifest import told
    from gptlab.data.prepare.prepare import merge

    facts = merge(out, folders)
    done = "already prepared" if facts["already_prepared"] else f"merged in {facts['seconds']:.0f} s"
    print(f"{out}: {done}, {told(facts)}")
    return facts
