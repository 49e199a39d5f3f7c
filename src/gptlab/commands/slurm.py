"""`gptlab slurm`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptlab.commands import Flags
from gptlab.errors import ConfigError
from gptlab.runs.folder import RECIPE

if TYPE_CHECKING:
    from gptlab.actions.slurm import BatchJob


def run(
    recipes: tuple[Path, ...],
    /,
    *,
    out: Path,
    hours: float,
    gpus: int = 1,
    nodes: int = 1,
    cpus: int = 8,
    mem_gb: int | None = None,
    partition: str | None = None,
    account: str | None = None,
    file: Path | None = None,
    flags: Flags,
) -> dict[str, Any]:
    """Write a Slurm batch file that trains, saves before the time limit and requeues itself.

    Args:
        recipes: TOML files, merged left to right; none means OUT's own. Or one study, whose runs become an array.
        out: the run folder, or the study's.
        hours: time limit of one job; the run takes as many jobs as it needs.
        gpus: GPUs per machine, one process each; 0 trains on a CPU.
        nodes: machines.
        cpus: CPU cores per process.
        mem_gb: memory per machine, in GiB; None means the cluster's default.
        partition: the queue; None means the cluster's default.
        account: the account to charge; None means your own.
        file: the batch file to write; None means OUT.sbatch.
        flags: keys of the recipe.
    """
    from gptlab import recipe
    from gptlab.actions.ready import check_ready
    from gptlab.actions.slurm import BatchJob, batch_file, require_own_batch_file
    from gptlab.study.study_file import is_study

    job = BatchJob(
        hours=hours, gpus=gpus, nodes=nodes, cpus=cpus, mem_gb=mem_gb, partition=partition, account=account
    )
    file = file or out.with_name(out.name + ".sbatch")
    if len(recipes) == 1 and is_study(recipes[0]):
        return _array(recipes[0], out, file, job, flags)
    require_own_batch_file(file, out)
    own = out / RECIPE
    if not recipes and not own.is_file():
        raise ConfigError(f"--out {out}: holds no run to continue; name a recipe to start one")
    # Find faults in the recipe or the data now, not in the queue.
    config = recipe.load(recipes or [own], flags)
    check_ready(config.data, config.train, config.model.context, out)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(batch_file(file, recipes, out, flags, job), encoding="utf-8")
    print(f"{file}: written; submit it with: sbatch {file}")
    return {"file": str(file), "processes": job.processes}


def _array(study: Path, out: Path, file: Path, job: "BatchJob", flags: Flags) -> dict[str, Any]:
    """Write a batch file for the runs of a study, and first one for its learning-rate search, if any."""
    from gptlab.actions.slurm import array_file, require_own_batch_file
    from gptlab.study.conduct import planned

    if any(flags.values()):
        raise ConfigError("a study's keys are in its own file; leave the recipe flags out")
    search, counted = planned(study, out)
    files = {file.with_name(f"{file.stem}-search{file.suffix}"): search} if search else {}
    files[file] = counted
    for each, runs in files.items():
        require_own_batch_file(each, out)
        each.parent.mkdir(parents=True, exist_ok=True)
        each.write_text(array_file(each, study, out, runs, job), encoding="utf-8")
        print(f"{each}: written, {len(runs)} jobs")
    first, *rest = files
    print(
        f"submit with: sbatch {first}"
        if not rest
        else f"submit with: sbatch --dependency=afterany:$(sbatch --parsable {first}) {file}"
    )
    return {"file": str(file), "processes": job.processes, "jobs": sum(map(len, files.values()))}
