"""`gptlab doctor`."""

from pathlib import Path
from typing import Any

from gptlab.errors import ConfigError


def run(folder: Path = Path(), /) -> dict[str, Any]:
    """Show what this machine and a folder's drive can do for a run.

    Args:
        folder: where runs will be kept.
    """
    from gptlab.actions.doctor import examine

    if not folder.is_dir():
        raise ConfigError(f"{folder}: there is no such folder; name one that exists")
    findings = examine(folder)
    for finding in findings:
        print(f"{finding.status:<5} {finding.name:<9} {finding.detail}")
    return {finding.name: {"status": finding.status, "detail": finding.detail} for finding in findings}
