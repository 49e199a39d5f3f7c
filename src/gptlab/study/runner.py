"""The runs of a study, done one after another or several at a time, each in its own process."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO

import torch

from gptlab.errors import INTERRUPTED, ConfigError, TrainError
from gptlab.machine.lock import LOCK, hold
from gptlab.parsing import parse_json
from gptlab.progress import Progress
from gptlab.runs.folder import METRICS
from gptlab.study.trials import Ended, Trial, keep, read_ended, run_of, total
from gptlab.train.interrupt import Interrupt

POLL_S = 0.2
CHILD = "GPTLAB_STUDY_CHILD"
TAIL_BYTES = 4096


@dataclass
class Running:
    """A trial's process."""

    trial: Trial
    process: subprocess.Popen[bytes]
    slot: int
    log: IO[bytes]


def checked_jobs(asked: int | None) -> int:
    """Return how many runs to do at once: as many as asked for, or one per GPU, or one.

    Raises:
        ConfigError: fewer than one is asked for.
    """
    if asked is not None and asked < 1:
        raise ConfigError(f"--jobs {asked}: must be at least 1; leave it out for one run a GPU")
    return asked or max(1, torch.cuda.device_count())


@contextmanager
def alone(out: Path) -> Generator[Interrupt]:
    """Make and lock a study's folder, so that no other process does its runs; yield what may ask to stop meanwhile.

    Raises:
        TrainError: another process does.
    """
    interrupt = Interrupt()
    out.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        try:
            stack.enter_context(hold(out / LOCK))
        except BlockingIOError:
            raise TrainError(
                f"{out}: another process is running this study; wait for it or stop it"
            ) from None
        stack.enter_context(interrupt.listening())
        yield interrupt


def do_all(
    study_file: Path,
    out: Path,
    trials: Sequence[Trial],
    jobs: int,
    interrupt: Interrupt,
    ended: Callable[[Trial], None],
) -> bool:
    """Do the trials that have not ended; say whether all have now.

    Args:
        study_file: STUDY.toml, which each process reads again.
        out: the study's folder.
        trials: in order.
        jobs: how many at once.
        interrupt: may ask to stop; the processes then save their runs.
        ended: called with each trial that has ended.
    """
    waiting = [trial for trial in trials if read_ended(out, trial) is None]
    if not waiting:
        return True
    running: list[Running] = []
    fresh: list[Trial] = []
    killed = set[str]()
    before = total(trials) - total(waiting)
    with Progress("studying", total(trials), " tokens") as progress:
        progress.advance(before)
        done, shown = before, before
        try:
            while (waiting or running) and not interrupt.wanted():
                free = sorted(set(range(jobs)) - {each.slot for each in running})
                while waiting and free:
                    running.append(_start(study_file, out, waiting.pop(0), free.pop(0), jobs))
                while fresh:  # while the next ones are starting
                    ended(fresh.pop(0))
                time.sleep(POLL_S)
                for each in [each for each in running if each.process.poll() is not None]:
                    running.remove(each)
                    if _take(out, each, killed):
                        done += total([each.trial])
                        fresh.append(each.trial)
                    else:
                        waiting.insert(0, each.trial)  # somebody stopped this one alone
                now = max(shown, done + sum(_tokens(out, each.trial) for each in running))
                progress.advance(
                    now - shown, runs=f"{len(trials) - len(waiting) - len(running)}/{len(trials)}"
                )
                shown = now
            while fresh:
                ended(fresh.pop(0))
        finally:
            for each in running:
                each.process.terminate()
            for each in running:
                each.process.wait()
                with suppress(TrainError):
                    _take(out, each, killed)
    return not waiting and not interrupt.wanted()


def _start(study_file: Path, out: Path, trial: Trial, slot: int, jobs: int) -> Running:
    environment = {**os.environ, CHILD: "1"}
    if torch.cuda.device_count() > 1:
        environment["CUDA_VISIBLE_DEVICES"] = gpu_of(slot, torch.cuda.device_count())
    elif jobs > 1 and not torch.cuda.is_available():
        threads = max(1, (os.cpu_count() or 1) // jobs)  # more would only slow each other down
        environment.setdefault("OMP_NUM_THREADS", str(threads))
    log = out / "logs" / f"{trial.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    file = log.open("ab")
    process = subprocess.Popen(
        [sys.executable, "-m", "gptlab", "study", str(study_file), "--out", str(out), "--only", trial.name],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=file,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # Ctrl-C reaches this process, which stops the others
    )
    return Running(trial, process, slot, file)


def gpu_of(slot: int, count: int) -> str:
    """Return the GPU of a slot as CUDA_VISIBLE_DEVICES names it, among those that this process may use."""
    given = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return (given or [str(number) for number in range(count)])[slot % count]


def _take(out: Path, each: Running, killed: set[str]) -> bool:
    """Say whether a trial has ended with its process; one that was stopped, or killed for the first time, has not.

    Raises:
        TrainError: the process could not begin, as when the study was changed meanwhile.
    """
    each.log.close()
    if each.process.stdin is not None:
        each.process.stdin.close()
    if read_ended(out, each.trial) is not None:
        return True
    code = each.process.returncode
    if code in (INTERRUPTED, -signal.SIGTERM):
        return False
    if code < 0 and each.trial.name not in killed:
        killed.add(each.trial.name)
        return False
    log = out / "logs" / f"{each.trial.name}.log"
    last = " ".join(log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:])
    if code == 1:  # a failure within a run is recorded by its process
        raise TrainError(
            f"{each.trial.name}: did not begin ({last}); fix that and run the same command again"
        )
    keep(out, each.trial, Ended("failed", f"its process ended with code {code}: {last}"))
    return True


def _tokens(out: Path, trial: Trial) -> int:
    """Return how many tokens a run has trained on, from the end of its metrics."""
    with suppress(OSError, ValueError), (run_of(out, trial) / METRICS).open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
        for line in reversed(file.read().split(b"\n")[1:-1]):
            row = parse_json(line)
            if row.get("kind") == "step":
                return int(row["tokens"])
    return 0


def stop_when_asked() -> None:
    """Stop outside training as a run does: on Slurm's SIGUSR1, and when the study that started this process is gone."""

    def leave(number: int, frame: FrameType | None) -> None:
        os._exit(INTERRUPTED)  # every file is whole or absent

    if hasattr(signal, "SIGUSR1"):
        signal.signal(signal.SIGUSR1, leave)
    if CHILD not in os.environ:
        return

    def watch() -> None:
        while os.read(0, 4096):  # not sys.stdin, whose lock would abort the interpreter when it ends
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
