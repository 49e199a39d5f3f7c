"""`gptlab slurm`."""

from pathlib import Path
from typing import Any

from gptlab.commands import Flags
from gptlab.errors import ConfigError
from gptlab.runs.folder import RECIPE


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
    """Write a Slurm batch file that trains, saves before the time limit and queues itself again.

    Args:
        recipes: TOML files, merged left to right; none is OUT's own.
        out: the run folder.
        hours: longest time of one job; the run takes as many jobs as it needs.
        gpus: GPUs of each machine, a process each; 0 trains on a CPU.
        nodes: machines.
        cpus: processor cores of each process.
        mem_gb: memory of each machine, in GiB; None is the cluster's own choice.
        partition: the queue; None is the cluster's own choice.
        account: whom to charge; None is your own.
        file: the batch file to write; None is OUT.sbatch.
        flags: keys of the recipe.
    """
    from gptlab import recipe
    from gptlab.commands import INTERRUPTED
    from gptlab.slurm import Job, batch_file, check_ready, refuse_place

    job = Job(
        hours=hours, gpus=gpus, nodes=nodes, cpus=cpus, mem_gb=mem_gb, partition=partition, account=account
    )
    file = file or out.with_name(out.name + ".sbatch")
    refuse_place(file, out)
    own = out / RECIPE
    if not recipes and not own.is_file():
        raise ConfigError(f"--out {out}: holds no run to continue; name a recipe to start one")
    # What is wrong with the recipe or the data should not come to light in the queue.
    config = recipe.load(recipes or [own], flags)
    check_ready(config.data, config.train, config.model.context, out)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(batch_file(file, recipes, out, flags, job, INTERRUPTED), encoding="utf-8")
    print(f"{file}: written; submit it with: sbatch {file}")
    return {"file": str(file), "processes": job.processes}
