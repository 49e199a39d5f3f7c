import hashlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from forked import finish_together
from namespaces import network

import gptlab
from gptlab import cli
from gptlab.actions.slurm import BatchJob, batch_file
from gptlab.errors import ConfigError

JOB = BatchJob(hours=1, nodes=2, gpus=0, cpus=1, partition=None, account=None)

# Stand-ins for srun and scontrol: numbered tasks, and a recorded request.
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

    def run(self, file, signal_when=None, number=signal.SIGUSR1):
        job = subprocess.Popen(
            ["bash", file], env=self.environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        while signal_when is not None and not signal_when():
            assert job.poll() is None, job.communicate()[0]
            time.sleep(0.01)
        if signal_when is not None and number:
            # The task's process is its shell, which has become the command.
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
        file.write_text(batch_file(file, [tiny_recipe], tmp_path / name, flags, JOB))
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
    words = ["train", tiny_recipe, "--out", tmp_path / "whole", "--train.steps", 100, "--eval.tasks"]
    finish_together(JOB.processes, [*words, "--eval.every-steps", 1000, "--eval.val-tokens", 512])

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
    file.write_text(batch_file(file, [tiny_recipe], tmp_path / "run", {}, JOB))
    code, said = slurm.run(file)
    assert code == 1
    assert "holds files but no run" in said
    assert slurm.requeued == []


@pytest.mark.parametrize("name", ["it's mine", "a;b", "$HOME", '"x"'])
@pytest.mark.parametrize("gpus", [0, 2])
def test_names_arrive_as_they_are(tmp_path, name, gpus):
    """With an srun that only prints what it would start."""
    (tmp_path / "srun").write_text('#!/bin/bash\nfor word; do echo "<$word>"; done\n')
    (tmp_path / "srun").chmod(0o755)
    (tmp_path / "scontrol").write_text("#!/bin/bash\necho 127.0.0.1\n")
    (tmp_path / "scontrol").chmod(0o755)
    job = BatchJob(hours=1, nodes=1, gpus=gpus, cpus=1, partition=None, account=None)
    out = Path("runs") / name
    text = batch_file(tmp_path / "x.sbatch", [Path(f"{name}.toml")], out, {}, job)
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
    found = asked(text)
    assert found["job-name"] == name
    assert found["output"] == f"{Path.cwd() / out}.%j.log"
    assert found["chdir"] == str(Path.cwd())


@pytest.mark.parametrize(("hours", "time"), [(0.17, "0:10:00"), (1, "1:00:00"), (167.99, "167:59:00")])
def test_the_time_is_rounded_down_to_minutes(hours, time):
    job = BatchJob(hours=hours, nodes=1, gpus=0, cpus=1, partition=None, account=None)
    assert f"#SBATCH --time={time}" in job.directives(Path("run"))


def test_what_is_asked_for():
    job = BatchJob(hours=23.5, nodes=1, gpus=8, cpus=4, partition="gpu", account="thesis")
    text = batch_file(Path("x.sbatch"), [Path("a b.toml")], Path("runs/x"), {}, job)
    lines = {line for line in text.splitlines() if line.startswith("#SBATCH")}
    assert {
        "#SBATCH --time=23:30:00",
        "#SBATCH --gpus-per-node=8",
        "#SBATCH --ntasks-per-node=8",
        "#SBATCH --partition=gpu",
        "#SBATCH --account=thesis",
        "#SBATCH --signal=USR1@300",
        "#SBATCH --requeue",
    } <= lines
    assert "train 'a b.toml' --out runs/x\n" in text


def test_one_process_needs_no_addresses():
    job = BatchJob(hours=1, nodes=1, gpus=1, cpus=1, partition=None, account=None)
    flags = {"train": {"grad_clip": None}, "eval": {"tasks": ("hellaswag", "continuation")}}
    text = batch_file(Path("x.sbatch"), [Path("a.toml")], Path("x"), flags, job)
    assert "MASTER_ADDR" not in text
    assert "train a.toml --train.grad-clip None --eval.tasks hellaswag continuation --out x\n" in text


def test_the_command_and_its_flags(tiny_recipe, tmp_path, capsys):
    words = ["slurm", str(tiny_recipe), "--out", str(tmp_path / "run"), "--hours", "2", "--gpus", "0"]
    assert cli.main([*words, "--train.steps", "7", "--json", str(tmp_path / "facts.json")]) == 0
    text = (tmp_path / "run.sbatch").read_text()
    assert json.loads((tmp_path / "facts.json").read_text())["processes"] == 1
    assert "--train.steps 7" in text
    assert not (tmp_path / "run").exists()
    assert cli.main([*words, "--optim.lr", "-1"]) == 1
    assert "optim: lr = -1.0" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [{"hours": 0.1}, {"nodes": 0}, {"gpus": -1}, {"cpus": 0}, {"mem_gb": 0}])
def test_impossible_jobs_are_refused(wrong):
    right = {"hours": 1.0, "nodes": 1, "gpus": 1, "cpus": 1, "partition": None, "account": None}
    name, _ = next(iter(wrong.items()))
    with pytest.raises(ConfigError, match=f"--{name.replace('_', '-')} "):
        BatchJob(**{**right, **wrong})


@pytest.fixture
def slurm(tiny_recipe, tmp_path, monkeypatch, capsys):
    """Write a batch file as a user does, from a separate folder: `slurm("--nodes", 2)`; return the output too."""
    here = tmp_path / "it's 50% mine"
    here.mkdir()
    monkeypatch.chdir(here)

    def run(*words, recipe=tiny_recipe, out="runs/x"):
        capsys.readouterr()
        named = [recipe] if recipe is not None else []
        words = ["slurm", *named, "--out", out, "--hours", 2, "--gpus", 0, *words]
        code = cli.main([*map(str, words)])
        return code, capsys.readouterr().err

    return run


def asked(text):
    lines = (line.removeprefix("#SBATCH --") for line in text.splitlines() if line.startswith("#SBATCH"))
    return dict(shlex.split(line)[0].split("=", 1) for line in lines if "=" in line)


def test_the_job_runs_where_the_command_was_typed(slurm, tmp_path):
    """Paths are relative; sbatch may be called from anywhere, even from another job."""
    assert slurm()[0] == 0
    found = asked(Path("runs/x.sbatch").read_text())
    assert found["chdir"] == str(Path.cwd())
    assert found["output"].replace("%%", "%").replace("%j", "7") == str(Path.cwd() / "runs" / "x.7.log")
    assert found["output"].count("%%") == 1, "a percent sign of a folder is none of Slurm's"
    assert "mem" not in found
    assert "gpus-per-node" not in found


def test_memory_is_asked_for(slurm):
    assert slurm("--mem-gb", 240)[0] == 0
    assert asked(Path("runs/x.sbatch").read_text())["mem"] == "240G"
    assert "--mem-gb 0: must be at least 1" in slurm("--mem-gb", 0)[1]


def test_srun_is_told_of_the_cores(slurm, tmp_path):
    """Since Slurm 22.05 it no longer takes them from sbatch, and every process would get one."""
    (tmp_path / "srun").write_text('#!/bin/bash\necho "cores: $SRUN_CPUS_PER_TASK"\n')
    (tmp_path / "scontrol").write_text("#!/bin/bash\necho here\n")
    for name in ("srun", "scontrol"):
        (tmp_path / name).chmod(0o755)
    there = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "here"}
    for number, nodes in enumerate((1, 2)):
        assert slurm("--cpus", 6, "--nodes", nodes, out=f"runs/{number}")[0] == 0
        file = Path(f"runs/{number}.sbatch")
        # In the job, Slurm reports what sbatch was asked for.
        job = there | {"SLURM_CPUS_PER_TASK": asked(file.read_text())["cpus-per-task"]}
        done = subprocess.run(["bash", file], env=job, capture_output=True, text=True, check=True)
        assert done.stdout == "cores: 6\n"


def test_what_is_missing_is_told_before_the_queue(slurm, tiny_data, tmp_path):
    code, said = slurm("--data.path", "nowhere")
    assert (code, len(said.splitlines())) == (1, 1)
    assert said.startswith("gptlab slurm: nowhere: ")
    damaged = shutil.copytree(tiny_data, tmp_path / "damaged")
    next(damaged.glob("val_*.bin")).unlink()
    assert "damaged/val_000000.bin" in slurm("--data.path", damaged)[1]
    assert "context 100,000 needs a" in slurm("--model.context", 100_000, "--train.batch-tokens", 100_000)[1]
    for key in ("init", "anneal"):
        said = slurm(f"--train.{key}-from", "runs/none")[1]
        assert f"train.{key}_from = runs/none: there is no such folder" in said
    assert "recipe none.toml: no such file" in slurm(recipe="none.toml")[1]
    assert "--out runs/x: holds no run to continue; name a recipe" in slurm(recipe=None)[1]
    assert not Path("runs").exists()


def test_a_run_that_is_there_goes_on_with_its_own_recipe(slurm, finished_run):
    shutil.copytree(finished_run, "runs/x")
    assert slurm(recipe=None)[0] == 0
    assert slurm("--train.init-from", "gone", "--file", "other.sbatch")[0] == 0, "it has its own weights"
    assert "train --out runs/x\n" in Path("runs/x.sbatch").read_text()


def test_a_batch_file_is_replaced_by_the_same_runs_only(slurm):
    file = Path("runs/x.sbatch")
    assert slurm()[0] == 0
    assert slurm("--hours", 4)[0] == 0
    written = file.read_text()
    assert asked(written)["time"] == "4:00:00"
    told = "gptlab slurm: runs/x.sbatch: holds the batch file of runs/x; choose another file or delete"
    assert slurm("--file", file, out="runs/y")[1].startswith(told)
    file.write_text(written.replace("#SBATCH --requeue", "#SBATCH --requeue\n#SBATCH --exclusive"))
    assert "runs/x.sbatch: has changed since it was written" in slurm()[1]
    assert "--exclusive" in file.read_text()
    file.write_text("#!/bin/bash\necho mine\n")
    assert "exists and is not a batch file written by gptlab" in slurm()[1]
    assert "echo mine" in file.read_text()
    file.unlink()
    file.mkdir()
    assert "runs/x.sbatch: is a folder; choose another name" in slurm()[1]


# Places each task on a machine of its own.
SRUN_OVER_MACHINES = """#!/bin/bash
tasks=()
for i in 0 1; do
    SLURM_PROCID=$i SLURM_LOCALID=0 ip netns exec "${SPACES[$i]}" "$@" &
    tasks+=($!)
done
code=0
for task in "${tasks[@]}"; do
    wait "$task"; ended=$?
    if [ $ended -gt $code ]; then code=$ended; fi
done
exit $code
"""


@pytest.mark.long  # half a minute of silence; the parts are tried apart, here and in train/test_machines.py
def test_a_machine_that_goes_silent_is_a_reason_to_queue_again(tiny_recipe, tmp_path, monkeypatch):
    flags = {
        "train": {"steps": 100_000, "save_every_steps": 5},
        "eval": {"tasks": (), "every_steps": 100_000},
    }
    (tmp_path / "bin").mkdir()
    slurm = Slurm(tmp_path / "bin", JOB.processes)
    monkeypatch.setenv("PATH", slurm.environment["PATH"])
    with network(2) as nodes:
        spaces = shlex.join(node.space for node in nodes)
        srun = SRUN_OVER_MACHINES.replace("tasks=()", f"SPACES=({spaces})\ntasks=()", 1)
        (slurm.folder / "srun").write_text(srun)
        (slurm.folder / "scontrol").write_text(SCONTROL.replace("127.0.0.1", nodes[0].address))
        file = tmp_path / "run.sbatch"
        file.write_text(batch_file(file, [tiny_recipe], tmp_path / "run", flags, JOB))
        metrics = tmp_path / "run" / "metrics.jsonl"

        def cut():
            if not metrics.exists() or metrics.read_text().count('"kind": "step"') < 12:
                return False
            nodes[1].cut()
            return True

        code, said = slurm.run(file, cut, number=0)
    assert code == 75, said
    assert len(slurm.requeued) == 1
    assert said.count(" went silent: the machine or its network is gone; step ") == 2
