"""Readers and their mutants, in a process of its own: `python ordeal.py FIRST COUNT FOLDER KIND...`.

Every mutant must end in a value that is valid by the kind's own rules, or in a GptlabError of one line; within
a limit of CPU time and of memory; with no code run, no other file opened for writing, the file next door not
opened at all, and what was read left as it was. A line of JSON for each that does otherwise, then one for all.
"""

import contextlib
import hashlib
import io
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from forms import mutate
from kind import Kind
from kinds_of_data import DATA
from kinds_of_models import MODELS
from kinds_of_runs import RUNS
from mutations import Traps

from gptlab import cli
from gptlab.errors import GptlabError

CPU_S = 30  # for what takes milliseconds; CPU time, so that a busy machine makes no difference
ROOM_BYTES, ROOM_FACTOR = 64 << 20, 64  # of memory, besides and for each byte of the files
ADDRESS_BYTES = 6 << 30  # of address space: what asks for more is refused and does not fill the machine
MESSAGE = 2_000  # characters that a person may be asked to read
COMMAND_EVERY = 25
BESIDE = {"whole", "mutant", "failed", "temporary", "secret.json"}  # of the folder that is worked in
FORBIDDEN = {"os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "socket.connect"}

KINDS = {**DATA, **RUNS, **MODELS}


class TooLongError(KeyboardInterrupt):
    """Past the limit of CPU time; no reader catches it."""


class Ordeal:
    """The folder that mutants are made of, and what is watched while one is read."""

    def __init__(self, name: str, work: Path) -> None:
        self.kind: Kind = KINDS[name]
        self.name, self.work = name, work
        self.whole, self.mutant, self.failed = work / "whole", work / "mutant", work / "failed"
        self.canary, self.secret = work / "canary", work / "secret.json"
        self.traps = Traps(self.canary, self.secret)
        self.deeds: list[str] = []
        self.watching = False
        tempfile.tempdir = str(work / "temporary")
        Path(tempfile.tempdir).mkdir(parents=True)
        self.whole.mkdir()
        self.secret.write_bytes(b"{}")
        with _quiet():
            self.kind.make(self.whole)
            self.before = _contents(self.whole)
            self._copy()
            self.kind.read(self.mutant)  # what is whole can be read, and all is imported
        sys.addaudithook(self._audit)
        used = _status("VmSize")
        resource.setrlimit(
            resource.RLIMIT_AS, (used + ADDRESS_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1])
        )
        signal.signal(signal.SIGPROF, _too_long)

    def _copy(self) -> None:
        shutil.rmtree(self.mutant, ignore_errors=True)
        shutil.copytree(self.whole, self.mutant)

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.watching:
            return
        if event in FORBIDDEN:
            self.deeds.append(f"{event} {arguments!r:.200}")
        elif event == "open":
            path, _, flags = arguments
            if isinstance(path, int):
                return
            where = os.path.abspath(os.fsdecode(path))  # noqa: PTH100 (resolve() would ask the disk)
            if where == str(self.secret):
                self.deeds.append(f"opened {where}")
            writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if writes and not where.startswith((f"{self.mutant}/", f"{tempfile.tempdir}/", "/dev/null")):
                self.deeds.append(f"opened {where} for writing")

    def run(self, number: int) -> str | None:
        """Make and read one mutant; return what is wrong, if anything."""
        draw = random.Random(f"{self.name} {number}")
        self._copy()
        files = sorted((f, form) for glob, form in self.kind.files.items() for f in self.mutant.glob(glob))
        file, form = draw.choice(files)
        file.write_bytes(mutate(file.read_bytes(), form, draw, self.traps))
        if self.kind.mend is not None and draw.random() < 0.7:
            self.kind.mend(self.mutant)
        before = _contents(self.mutant)
        size = sum(f.stat().st_size for f in self.mutant.rglob("*") if f.is_file())
        self.deeds.clear()
        Path("/proc/self/clear_refs").write_text("5")
        used = _status("VmRSS")
        command = self.kind.command if number % COMMAND_EVERY == 0 else ()
        problem = self._watched(command)
        grown = _status("VmHWM") - used
        if problem is None and grown > ROOM_BYTES + ROOM_FACTOR * size:
            problem = f"took {grown:,} bytes of memory for {size:,} bytes of files"
        if problem is None and self.deeds:
            problem = "; ".join(self.deeds)
        if problem is None and self.canary.exists():
            problem = "ran code"
        if problem is None and {entry.name for entry in self.work.iterdir()} - BESIDE:
            problem = "wrote beside its folder"
        if problem is None and not self.kind.writes and (after := _contents(self.mutant)) != before:
            problem = f"changed {sorted(str(f) for f in before.keys() | after.keys() if before.get(f) != after.get(f))}"
        self.canary.unlink(missing_ok=True)
        return problem and f"{file.relative_to(self.mutant)}: {problem}"

    def _watched(self, command: tuple[str, ...]) -> str | None:
        signal.setitimer(signal.ITIMER_PROF, CPU_S)
        self.watching = True
        try:
            with _quiet() as said:
                if command:
                    code = cli.main([word.format(folder=self.mutant) for word in command])
                    lines = said.getvalue().strip().splitlines()
                    if code not in (0, 1) or (code == 1 and not lines[-1].startswith("gptlab ")):
                        return f"the command ended with {code}: {said.getvalue()[-300:]!r}"
                    return None
                self.kind.read(self.mutant)
        except GptlabError as error:
            said_ = str(error)
            if not said_.isprintable() or "Traceback" in said_ or not 0 < len(said_) <= MESSAGE:
                return f"a message that nobody can read ({len(said_):,} characters): {said_[:300]!r}"
        except TooLongError:
            return f"took over {CPU_S} s of CPU time"
        except BaseException as error:
            import traceback

            where = traceback.extract_tb(error.__traceback__)
            ours = next((f for f in reversed(where) if "gptlab/" in f.filename), where[-1])
            return f"{type(error).__name__} at {Path(ours.filename).name}:{ours.lineno}: {error!s:.200}"
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            self.watching = False
        return None

    def keep(self, number: int) -> Path:
        """Keep a mutant to look at."""
        return Path(shutil.copytree(self.mutant, self.failed / str(number)))


def _too_long(*_: Any) -> None:
    raise TooLongError


@contextlib.contextmanager
def _quiet() -> Iterator[io.StringIO]:
    said = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        yield said


def _contents(folder: Path) -> dict[Path, str]:
    files = (file for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(folder): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:")) * 1024


def main() -> None:
    first, count, work, names = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]).resolve(), sys.argv[4:]
    for name in names:
        ordeal = Ordeal(name, work / name)
        for number in range(first, first + count):
            (work / "reached").write_text(f"{name} {number}")  # what was being read, should this process die
            if (problem := ordeal.run(number)) is not None:
                told = {"kind": name, "number": number, "problem": problem, "kept": str(ordeal.keep(number))}
                print(json.dumps(told), flush=True)
        assert _contents(ordeal.whole) == ordeal.before, "the original was changed"
    print(json.dumps({"mutants": count * len(names)}))


if __name__ == "__main__":
    main()
