"""A batch file for Slurm that saves before the time limit, and queues itself again until the run is done.

Slurm sends SIGUSR1 some minutes before the limit. `gptlab train` then writes a checkpoint and ends with exit
code 75, for which the batch file asks to be queued again; the same command continues the run. Every process is
a task of srun's, and not a child of torchrun, since srun hands the signal to each task.

Source: Slurm's manual pages of sbatch (--signal, --requeue, --open-mode), srun and scontrol.
"""

import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptlab.errors import ConfigError

SIGNAL_S = 300  # from the signal to the end: for a step, the copy of the state and a slow file system

TEMPLATE = """\
#!/bin/bash
# Written by "gptlab slurm"; submit it with: sbatch {file}
# It trains until {out} is finished, in as many jobs of {hours:g} h as that takes.
{directives}
# The signals are for the processes. This shell outlives them, to see how they ended.
trap : USR1 TERM

{launch}
code=$?

if [ $code -eq {interrupted} ]; then
    # Saved, but not finished: the next job continues with the same command.
    scontrol requeue "$SLURM_JOB_ID"
fi
exit $code
"""

SEVERAL = """\
export MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
srun bash -c 'RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS exec "$@"' - \\
    {command}"""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to ask Slurm for."""

    hours: float
    """Longest time of one job."""
    nodes: int
    """Machines."""
    gpus: int
    """GPUs of each machine, a process each; 0 is one process without any."""
    cpus: int
    """Processor cores of each process."""
    partition: str | None
    """Queue; None is the cluster's own choice."""
    account: str | None
    """Whom to charge; None is the user's own."""

    def __post_init__(self) -> None:
        for name, least in (("nodes", 1), ("gpus", 0), ("cpus", 1)):
            value = getattr(self, name)
            if value < least:
                raise ConfigError(f"--{name} {value}: must be at least {least}")
        if self.hours * 3600 < 2 * SIGNAL_S:
            raise ConfigError(
                f"--hours {self.hours:g}: leaves no time to train, as the last {SIGNAL_S // 60} minutes are kept "
                f"for saving; ask for {2 * SIGNAL_S / 3600:.2g} or more"
            )

    @property
    def processes(self) -> int:
        """How many processes train."""
        return self.nodes * max(1, self.gpus)

    def directives(self, out: Path) -> Iterator[str]:
        """Yield the lines that sbatch reads."""
        minutes = int(self.hours * 60)
        options = {
            "job-name": out.name,
            "output": f"{out}.%j.log",  # beside the run, whose folder is not there yet
            "open-mode": "append",
            "nodes": self.nodes,
            "ntasks-per-node": max(1, self.gpus),
            "cpus-per-task": self.cpus,
            "time": f"{minutes // 60}:{minutes % 60:02d}:00",
            "signal": f"USR1@{SIGNAL_S}",
        }
        if self.gpus:
            options["gpus-per-node"] = self.gpus
        for name in ("partition", "account"):
            if getattr(self, name) is not None:
                options[name] = getattr(self, name)
        for name, value in options.items():
            yield f"#SBATCH --{name}={shlex.quote(str(value))}"  # as sbatch, too, reads quotes
        yield "#SBATCH --requeue"


def batch_file(
    file: Path, recipes: Sequence[Path], out: Path, flags: Mapping[str, Any], job: Job, interrupted: int
) -> str:
    """Return the text of a batch file.

    Args:
        file: where it will lie.
        recipes: TOML files of the run, as `gptlab train` takes them.
        out: the run folder.
        flags: one more raw recipe, laid over the others.
        job: what to ask for.
        interrupted: the exit code of a run that was saved and wants to go on.
    """
    # The job's shell may know another environment than the one that submits it.
    words = [
        shutil.which("gptlab") or "gptlab",
        "train",
        *map(str, recipes),
        *_spell(flags),
        "--out",
        str(out),
    ]
    several = job.processes > 1
    command = shlex.join(words)
    return TEMPLATE.format(
        file=shlex.quote(str(file)),
        out=out,
        hours=job.hours,
        directives="\n".join(job.directives(out)),
        launch=SEVERAL.format(command=command) if several else f"srun {command}",
        interrupted=interrupted,
    )


def _spell(flags: Mapping[str, Any]) -> Iterator[str]:
    """Write a raw recipe as the flags that give it."""
    for section, values in flags.items():
        for key, value in values.items():
            yield f"--{section}.{key.replace('_', '-')}"
            yield from map(str, value) if isinstance(value, list | tuple) else [str(value)]
