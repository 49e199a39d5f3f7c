import hashlib
import json
import os
import shlex
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


def test_a_run_that_fails_is_not_queued_again(tiny_recipe, tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    slurm = Slurm(tmp_path / "bin", JOB.processes)
    monkeypatch.setenv("PATH", slurm.environment["PATH"])
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").touch()
    file = tmp_path / "run.sbatch"
    file.write_text(batch_file(file, [tiny_recipe], tmp_path / "run", {}, JOB, 75))
    code, said = slurm.run(file)
    assert code == 1
    assert "holds files, but no run" in said
    assert slurm.requeued == []


@pytest.mark.parametrize("name", ["it's mine", "a;b", "$HOME", '"x"'])
@pytest.mark.parametrize("gpus", [0, 2])
def test_names_arrive_as_they_are(tmp_path, name, gpus):
    """Where srun only prints what it is to start."""
    (tmp_path / "srun").write_text('#!/bin/bash\nfor word; do echo "<$word>"; done\n')
    (tmp_path / "srun").chmod(0o755)
    (tmp_path / "scontrol").write_text("#!/bin/bash\necho 127.0.0.1\n")
    (tmp_path / "scontrol").chmod(0o755)
    job = Job(hours=1, nodes=1, gpus=gpus, cpus=1, partition=None, account=None)
    out = Path("runs") / name
    text = batch_file(tmp_path / "x.sbatch", [Path(f"{name}.toml")], out, {}, job, 75)
    (tmp_path / "x.sbatch").write_text(text)
    done = subprocess.run(
        ["bash", tmp_path / "x.sbatch"],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "here"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"<train>\n<{name}.toml>\n<--out>\n<{out}>\n" in done.stdout
    assert done.stderr == ""
    asked = dict(
        shlex.split(line.removeprefix("#SBATCH --"))[0].split("=", 1)
        for line in text.splitlines()
        if line.startswith("#SBATCH") and "=" in line
    )
    assert asked["job-name"] == name
    assert asked["output"] == f"{out}.%j.log"


@pytest.mark.parametrize(("hours", "time"), [(0.17, "0:10:00"), (1, "1:00:00"), (167.99, "167:59:00")])
def test_the_time_is_rounded_down_to_minutes(hours, time):
    job = Job(hours=hours, nodes=1, gpus=0, cpus=1, partition=None, account=None)
    assert f"#SBATCH --time={time}" in job.directives(Path("run"))


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
