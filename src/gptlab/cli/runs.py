"""The commands about runs and recipes."""

from pathlib import Path
from typing import Any

from gptlab.cli.flags import Flags
from gptlab.errors import ConfigError


def demo(*, out: Path = Path("demo")) -> dict[str, Any]:
    """Run the whole pipeline on text that comes with Python, in minutes on a CPU.

    Args:
        out: folder for the page, the data, the runs and the exports.
    """
    from gptlab.demo import demo

    return demo(out)


def train(
    recipes: tuple[Path, ...] = (),
    /,
    *,
    out: Path,
    max_hours: float | None = None,
    replan: bool = False,
    from_: Path | None = None,
    anneal_hours: float | None = None,
    anneal_steps: int | None = None,
    flags: Flags,
) -> dict[str, Any]:
    """Train a model; with a run in OUT that is not finished, continue it.

    Args:
        recipes: TOML files, merged left to right; none is OUT's own.
        out: the run folder.
        max_hours: save and stop after that time, with exit code 75.
        replan: measure anew how many steps fit into train.hours.
        from_: a run or checkpoint whose learning rate is to come down from where it stands; OUT is a new run.
        anneal_hours: how long that takes.
        anneal_steps: or in how many steps.
        flags: keys of the recipe.
    """
    from gptlab.run import train

    if from_ is not None:
        from gptlab.anneal import annealed

        recipes, flags = annealed(from_, recipes, flags, hours=anneal_hours, steps=anneal_steps)
    elif anneal_hours is not None or anneal_steps is not None:
        raise ConfigError("--anneal-hours and --anneal-steps: name the checkpoint to anneal with --from")
    return train(recipes, out, flags, max_hours=max_hours, replan=replan)


def slurm(
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
    from gptlab.cli import INTERRUPTED
    from gptlab.slurm import Job, batch_file, check_ready, refuse_place

    job = Job(
        hours=hours, gpus=gpus, nodes=nodes, cpus=cpus, mem_gb=mem_gb, partition=partition, account=account
    )
    file = file or out.with_name(out.name + ".sbatch")
    refuse_place(file, out)
    own = out / "config.toml"
    if not recipes and not own.is_file():
        raise ConfigError(f"--out {out}: holds no run to continue; name a recipe to start one")
    # What is wrong with the recipe or the data should not come to light in the queue.
    config = recipe.load(recipes or [own], flags)
    check_ready(config.data, config.train, config.model.context, out)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(batch_file(file, recipes, out, flags, job, INTERRUPTED), encoding="utf-8")
    print(f"{file}: written; submit it with: sbatch {file}")
    return {"file": str(file), "processes": job.processes}


def doctor(folder: Path = Path(), /) -> dict[str, Any]:
    """Tell what this machine, and the drive that a folder lies on, can do for a run.

    Args:
        folder: where runs are to be kept.
    """
    from gptlab.doctor import examine

    if not folder.is_dir():
        raise ConfigError(f"{folder}: there is no such folder; name one that exists")
    findings = examine(folder)
    for finding in findings:
        print(f"{finding.status:<5} {finding.name:<9} {finding.detail}")
    return {finding.name: {"status": finding.status, "detail": finding.detail} for finding in findings}


def report(runs: tuple[Path, ...], /, *, out: Path) -> dict[str, Any]:
    """Draw runs: curves, a table of results, and a page that holds them.

    Args:
        runs: run folders.
        out: folder for index.html and the pictures.
    """
    from gptlab.report import report

    facts = report(runs, out)
    print(f"{out / 'index.html'}: {len(runs)} run(s)")
    return facts


def check(recipes: tuple[Path, ...], /, *, overfit: bool = False, flags: Flags) -> dict[str, Any]:
    """Test an architecture: causality, order, relative shift, cache, gradients.

    Args:
        recipes: TOML files, merged left to right.
        overfit: also learn one batch to near zero loss.
        flags: keys of the recipe.
    """
    from gptlab import recipe
    from gptlab.check import run_checks

    results = run_checks(recipe.load(recipes, flags).model, overfit=overfit)
    for result in results:
        print(f"{result.status:<7} {result.name:<14} {result.detail}")
    failed = [result.name for result in results if result.status == "failed"]
    if failed:
        raise ConfigError(f"the architecture fails {', '.join(failed)}; see above for what was measured")
    return {result.name: {"status": result.status, "detail": result.detail} for result in results}


def config(recipes: tuple[Path, ...], /, *, flags: Flags) -> dict[str, Any]:
    """Print a recipe as resolved: every key, itself a recipe.

    Args:
        recipes: TOML files, merged left to right.
        flags: keys of the recipe.
    """
    from dataclasses import asdict

    from gptlab import recipe

    resolved = recipe.load(recipes, flags)
    print(recipe.to_toml(resolved), end="")
    return asdict(resolved)
