"""Engines: who does the jobs of a preparation, processes of this machine or a Ray cluster."""

from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from gptlab.data.prepare.jobs import Job
from gptlab.data.prepare.workers import spread, stopped
from gptlab.data.tokenizer import Tokenizer
from gptlab.errors import DataError

RETRIES = 3  # of a job whose worker died

Engine = Callable[[Iterable[Job], Tokenizer, Path, int], Generator[Job]]
"""Encodes jobs into a folder with so many workers, and yields each when it is done.

It takes jobs as it needs them, a few ahead of the workers, so that little is wasted if nobody wants the rest.
"""


def processes(jobs: Iterable[Job], encoder: Tokenizer, folder: Path, workers: int) -> Generator[Job]:
    """Do jobs in this process or in several of this machine; closing the generator stops them.

    Raises:
        DataError: a piece cannot be read, or a worker ended abruptly.
    """
    do, remedy = partial(_do, encoder, folder), "run again with fewer workers, finished jobs are kept"
    with closing(spread(do, jobs, workers, remedy)) as done:
        for job, _ in done:
            yield job


def _do(encoder: Tokenizer, folder: Path, job: Job) -> None:
    job.encode(encoder, folder, stopped)


def ray(jobs: Iterable[Job], encoder: Tokenizer, folder: Path, workers: int) -> Generator[Job]:
    """Do jobs as tasks of a Ray cluster: the one that RAY_ADDRESS names or that runs here, else a new local one.

    The folder must be on a file system that all machines of the cluster see. A job whose worker dies is done again.

    Raises:
        DataError: Ray is not installed, or a job failed RETRIES times.
    """
    try:
        import ray as cluster
        from ray.exceptions import RayError, RayTaskError
    except ImportError:
        raise DataError('engine ray: is not installed; pip install "gptlab[ray]"') from None
    if not cluster.is_initialized():
        try:
            cluster.init(address="auto", log_to_driver=False)
        except ConnectionError:
            cluster.init(num_cpus=workers, log_to_driver=False, include_dashboard=False)
    task: Any = cluster.remote(num_cpus=1, max_retries=RETRIES)(_encode)
    shared, place = cluster.put(encoder), folder.resolve()
    waiting = iter(jobs)
    running: dict[Any, Job] = {}
    try:
        ahead = 2 * max(int(cluster.cluster_resources().get("CPU", 1)), 1)
        for job in islice(waiting, ahead):
            running[task.remote(job, shared, place)] = job
        while running:
            for future in cluster.wait(list(running))[0]:
                cluster.get(future)
                yield running.pop(future)
                for job in islice(waiting, 1):
                    running[task.remote(job, shared, place)] = job
    except RayTaskError as error:
        raise error.cause from None  # without the remote traceback that Ray adds to its message
    except RayError as error:
        line = " ".join(str(error).split())
        raise DataError(f"engine ray: {line}; run again to continue, finished jobs are kept") from error
    finally:
        for future in running:
            cluster.cancel(future, force=True)


def _encode(job: Job, encoder: Any, folder: Any) -> None:
    if not job.done(folder):
        job.encode(encoder, folder)


ENGINES: dict[str, Engine] = {"processes": processes, "ray": ray}

if TYPE_CHECKING:
    EngineName = str
else:
    EngineName = Literal[tuple(ENGINES)]
