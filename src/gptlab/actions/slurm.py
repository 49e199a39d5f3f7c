"""A batch file for Slurm that saves before the time limit and requeues itself until the run is done.

Slurm sends SIGUSR1 some minutes before the limit. `gptlab train` then writes a checkpoint and exits with code 75, upon
which the batch file requeues itself; the same command continues the run. Every process is a task of srun, not a child
of torchrun, since srun passes the signal to each task.

Source: Slurm's manual pages of sbatch (--signal, --requeue, --open-mode, --chdir, filename pattern), srun and
scontrol.
"""

import re
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptlab.errors import INTERRUPTED, ConfigError
from gptlab.outputs import Record, fingerprint, require_own_file

KIND = "batch file"
RECORD = re.compile(r"# Of (\w+) of gptlab; by (\w+) it is seen whether somebody changed it\.\n")

SIGNAL_S = 300  # from the signal to the limit: time for a step, a copy of the state and a slow file system

TEMPLATE = """\
#!/bin/bash
# Written by "gptlab slurm"; submit it with: sbatch {file}
# It trains until {out} is finished, in as many jobs of {hours:g} h as that takes.
{directives}

# Since Slurm 22.05 srun no longer takes the number of cores from sbatch.
export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"
# The signals are for the processes. This shell ignores them, to see how the processes end.
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
class BatchJob:
    """What to ask Slurm for: the flags of `gptlab slurm`; `gpus = 0` is one process without a GPU."""

    hours: float
    nodes: int
    gpus: int
    cpus: int
    mem_gb: int | None = None
    partition: str | None
    account: str | None

    def __post_init__(self) -> None:
        for name, least in (("nodes", 1), ("gpus", 0), ("cpus", 1), ("mem_gb", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"--{name.replace('_', '-')} {value}: must be at least {least}")
        if self.hours * 3600 < 2 * SIGNAL_S:
            raise ConfigError(
                f"--hours {self.hours:g}: leaves no time to train, as the last {SIGNAL_S // 60} minutes are kept "
                f"for saving; ask for {2 * SIGNAL_S / 3600:.2g} or more"
            )

    @property
    def processes(self) -> int:
        """Number of training processes."""
        return self.nodes * max(1, self.gpus)

    def directives(self, out: Path) -> Iterator[str]:
        """Yield the lines that sbatch reads."""
        minutes = int(self.hours * 60)
        log = str(out.absolute()).replace("%", "%%")  # next to the run, whose folder does not exist yet
        options = {
            "job-name": out.name,
            # sbatch may be called from anywhere, but the command's paths are relative to this folder.
            "chdir": str(Path.cwd()),
            "output": f"{log}.%j.log",
            "open-mode": "append",
            "nodes": self.nodes,
            "ntasks-per-node": max(1, self.gpus),
            "cpus-per-task": self.cpus,
            "time": f"{minutes // 60}:{minutes % 60:02d}:00",
            "signal": f"USR1@{SIGNAL_S}",
        }
        if self.gpus:
            options["gpus-per-node"] = self.gpus
        if self.mem_gb is not None:
            options["mem"] = f"{self.mem_gb}G"
        for name in ("partition", "account"):
            if getattr(self, name) is not None:
                options[name] = getattr(self, name)
        for name, value in options.items():
            yield f"#SBATCH --{name}={shlex.quote(str(value))}"  # sbatch reads quotes too
        yield "#SBATCH --requeue"


def batch_file(
    file: Path, recipes: Sequence[Path], out: Path, flags: Mapping[str, Any], job: BatchJob
) -> str:
    """Return the text of a batch file.

    Args:
        file: where it will be written.
        recipes: TOML files of the run, as `gptlab train` takes them.
        out: the run folder.
        flags: a raw recipe, merged over the others.
        job: what to ask for.
    """
    # The full path, as the job's shell may have another environment.
    program = shutil.which("gptlab") or "gptlab"
    command = shlex.join([program, "train", *map(str, recipes), *_spell(flags), "--out", str(out)])
    launch = SEVERAL.format(command=command) if job.processes > 1 else f"srun {command}"
    return _written(file, out, job, [*job.directives(out)], launch)


def array_file(file: Path, study: Path, out: Path, runs: Sequence[str], job: BatchJob) -> str:
    """Return the text of a batch file that does the runs of a study, each as a job of one array.

    Args:
        file: where it will be written.
        study: STUDY.toml.
        out: the study's folder.
        runs: their names.
        job: what to ask for, for each run.

    Raises:
        ConfigError: more than one process a run.
    """
    if job.processes > 1:
        raise ConfigError(
            f"--gpus {job.gpus} --nodes {job.nodes}: each run of a study is one process, and many run at once; give 1"
        )
    program = shutil.which("gptlab") or "gptlab"
    command = shlex.join(["srun", program, "study", str(study), "--out", str(out), "--only"])
    launch = f'runs=({shlex.join(runs)})\n{command} "${{runs[$SLURM_ARRAY_TASK_ID]}}"'
    directives = [line.replace(".%j.log", ".%A_%a.log") for line in job.directives(out)]
    return _written(file, out, job, [*directives, f"#SBATCH --array=0-{len(runs) - 1}"], launch)


def _written(file: Path, out: Path, job: BatchJob, directives: Sequence[str], launch: str) -> str:
    text = TEMPLATE.format(
        file=shlex.quote(str(file)),
        out=out,
        hours=job.hours,
        directives="\n".join(directives),
        launch=launch,
        interrupted=INTERRUPTED,
    )
    head, _, rest = text.partition("\n")
    record = (
        f"# Of {_identity(out)} of gptlab; by {fingerprint(text)} it is seen whether somebody changed it.\n"
    )
    return f"{head}\n{record}{rest}"


def require_own_batch_file(file: Path, out: Path) -> None:
    """Refuse to overwrite a file other than this run's unchanged batch file.

    Args:
        file: where it would be written.
        out: the run folder that it would train.

    Raises:
        ConfigError: the file belongs to another run, was changed, or was not written by gptlab.
    """
    text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
    found = RECORD.search(text)
    record = Record(KIND, found[1], _trained(text)) if found is not None else None
    require_own_file(file, KIND, _identity(out), record)
    if found is not None and fingerprint(RECORD.sub("", text, count=1)) != found[2]:
        raise ConfigError(
            f"{file}: has changed since it was written; choose another --file, or move it away and copy your "
            "changes"
        )


def _identity(out: Path) -> str:
    return fingerprint(KIND, str(out.absolute()))


def _trained(text: str) -> str:
    found = re.search(r"^# It trains until (.*) is finished", text, re.MULTILINE)
    return found[1] if found is not None else "another run"


def _spell(flags: Mapping[str, Any]) -> Iterator[str]:
    """Spell a raw recipe as flags."""
    for section, values in flags.items():
        for key, value in values.items():
            yield f"--{section}.{key.replace('_', '-')}"
            yield from map(str, value) if isinstance(value, list | tuple) else [str(value)]
