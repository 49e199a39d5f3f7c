"""`gptlab study`."""

from pathlib import Path
from typing import Any


def run(
    study: Path,
    /,
    *,
    out: Path,
    dry_run: bool = False,
    jobs: int | None = None,
    only: str | None = None,
    retry: bool = False,
) -> dict[str, Any]:
    """Compare variants over seeds at an equal budget, with statistics and a page; run again to continue.

    Args:
        study: a TOML file with base, seeds, [budget] and a [[variant]] for each variant, the baseline first.
        out: folder for the runs and the page.
        dry_run: check every variant, print what the study costs and can show, and stop.
        jobs: runs at once; None means one per GPU, or one without any.
        only: do this one run, as a job of a Slurm array does.
        retry: repeat the runs that failed.
    """
    from gptlab.study.conduct import conduct

    return conduct(study, out, dry_run=dry_run, jobs=jobs, only=only, retry=retry)
