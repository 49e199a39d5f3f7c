import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import gptlab
from gptlab.errors import ConfigError
from gptlab.slurm import Job, batch_file

JOB = Job(hours=1, nodes=2, gpus=0, cpus=1, partition=None, account=None)

# What srun and scontrol are to the batch file: tasks with a number each, and a wish that is noted down.
SRUN = """#!/bin/bash
tasks=()
for ((i = 0; i < SLURM_NTASKS; i++)); do
    SLURM_PROCID=$i SLURM_LOCALID=0 "$@" &
    tasks+=($!)
done
echo "${tasks[@]}" > "$STANDIN/tasks"
code=0
for task in "${tasks[@]}"; do
    wait "$task"; ended=$?
    if [ $ended -gt $code ]; then code=$ended; fi
done
exit $code
"""
SCONTROL = """#!/bin/bash
case "$1" in
    show) echo 127.0.0.1 ;;
    requeue) echo "$2" >> "$STANDIN/requeued" ;;
esac
"""
GPTLAB = """#!/bin/bash
exec {python} -c "import sys; from gptlab.cli import main; sys.exit(main())" "$@"
"""


class Slurm:
    """Runs batch files, and signals the tasks of one as Slurm does before the time limit."""

    def __init__(self, folder, tasks):
        self.folder = folder
        for name, text in (("srun", SRUN), ("scontrol", SCONTROL), ("gptlab", GPTLAB)):
            (folder / name).write_text(text.format(python=sys.executable) if name == "gptlab" else text)
            (folder / name).chmod(0o755)
        self.environment = {
            **os.environ,
            "PATH": f"{folder}:{os.environ['PATH']}",
            "PYTHONPATH": str(Path(gptlab.__file__).parents[1]),
            "STANDIN": str(folder),
            "SLURM_JOB_ID": str(os.getpid()),
            "SLURM_JOB_NODELIST": "here",
            "SLURM_NTASKS": str(tasks),
        }

    @property
    def requeued(self):
        wishes = self.folder / "requeued"
        return wishes.read_text().split() if wishes.exists() else []

    def run(self, file, signal_when=None):
        job = subprocess.Popen(
            ["bash", file], env=self.environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        while signal_when is not None and not signal_when():
            assert job.poll() is None, job.communicate()[0]
            time.sleep(0.01)
        if signal_when is not None:
            # The number of a task is its shell's, which has become the command.
            for task in (self.folder / "tasks").read_text().split():
                os.kill(int(task), signal.SIGUSR1)
        said, _ = job.communicate(timeout=300)
        return job.returncode, said


def steps(run):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row["step"] for row in rows if row["kind"] == "step"]


def test_the_whole_cycle(tiny_recipe, tmp_path, monkeypatch):
    flags = {"train": {"steps": 100}, "eval": {"tasks": (), "every_steps": 1000, "val_tokens": 512}}
    (tmp_path / "bin").mkdir()
    slurm = Slurm(tmp_path / "bin", JOB.processes)
    monkeypatch.setenv("PATH", slurm.environment["PATH"])

    def batch(name):
        file = tmp_path / f"{name}.sbatch"
        file.write_text(batch_file(file, [tiny_recipe], tmp_path / name, flags, JOB, 75))
        return file

    broken = tmp_path / "broken" / "metrics.jsonl"
    code, said = slurm.run(
        batch("broken"), lambda: broken.exists() and '"kind": "step"' in broken.read_text()
    )
    assert code == 75, said
    assert len(slurm.requeued) == 1
    assert 0 < max(steps(tmp_path / "broken")) < 100
    code, said = slurm.run(batch("broken"))
    assert code == 0, said
    assert len(slurm.requeued) == 1
    assert steps(tmp_path / "broken") == list(range(1, 101))
    assert slurm.run(batch("whole"))[0] == 0

    def weights(name):
        file = tmp_path / name / "checkpoints" / "step_00000100" / "model.safetensors"
        return hashlib.sha256(file.read_bytes()).hexdigest()

    assert weights("broken") == weights("whole")


def test_what_is_asked_for():
    job = Job(hours=23.5, nodes=1, gpus=8, cpus=4, partition="gpu", account="thesis")
    text = batch_file(Path("x.sbatch"), [Path("a b.toml")], Path("runs/x"), {}, job, 75)
    asked = {line for line in text.splitlines() if line.startswith("#SBATCH")}
    assert {
        "#SBATCH --time=23:30:00",
        "#SBATCH --gpus-per-node=8",
        "#SBATCH --ntasks-per-node=8",
        "#SBATCH --partition=gpu",
        "#SBATCH --account=thesis",
        "#SBATCH --signal=USR1@300",
        "#SBATCH --requeue",
    } <= asked
    assert "train 'a b.toml' --out runs/x\n" in text


def test_one_process_needs_no_addresses():
    job = Job(hours=1, nodes=1, gpus=1, cpus=1, partition=None, account=None)
    flags = {"train": {"grad_clip": None}, "eval": {"tasks": ("hellaswag", "continuation")}}
    text = batch_file(Path("x.sbatch"), [Path("a.toml")], Path("x"), flags, job, 75)
    assert "MASTER_ADDR" not in text
    assert "train a.toml --train.grad-clip None --eval.tasks hellaswag continuation --out x\n" in text


def test_the_command_and_its_flags(tiny_recipe, tmp_path, capsys):
    from gptlab import cli

    words = ["slurm", str(tiny_recipe), "--out", str(tmp_path / "run"), "--hours", "2", "--gpus", "0"]
    assert cli.main([*words, "--train.steps", "7", "--json", str(tmp_path / "facts.json")]) == 0
    text = (tmp_path / "run.sbatch").read_text()
    assert json.loads((tmp_path / "facts.json").read_text())["processes"] == 1
    assert "--train.steps 7" in text
    assert not (tmp_path / "run").exists()
    assert cli.main([*words, "--optim.lr", "-1"]) == 1
    assert "optim: lr = -1.0" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [{"hours": 0.1}, {"nodes": 0}, {"gpus": -1}, {"cpus": 0}])
def test_impossible_jobs_are_refused(wrong):
    asked = {"hours": 1.0, "nodes": 1, "gpus": 1, "cpus": 1, "partition": None, "account": None}
    with pytest.raises(ConfigError, match=f"--{next(iter(wrong))} "):
        Job(**{**asked, **wrong})
