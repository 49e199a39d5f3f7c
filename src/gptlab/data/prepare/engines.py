"""Engines: who does the jobs of a preparation, processes of this machine or a Ray cluster."""

import multiprocessing
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from gptlab.data.prepare.jobs import Job
from gptlab.data.prepare.workers import start_worker
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
    waiting = iter(jobs)
    first = list(islice(waiting, 2 if workers > 1 else 0))
    if len(first) < 2:
        for job in chain(first, waiting):
            job.encode(encoder, folder)
            yield job
        return
    waiting = chain(first, waiting)
    # Spawned, not forked: this process may hold threads and a GPU, which no child must inherit.
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    pool = ProcessPoolExecutor(workers, context, _start_worker, (encoder, folder, stop.is_set))
    running: dict[Future[None], Job] = {}
    try:
        for job in islice(waiting, 2 * workers):
            running[pool.submit(_work, job)] = job
        while running:
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                future.result()
                yield running.pop(future)
                for job in islice(waiting, 1):
                    running[pool.submit(_work, job)] = job
    except BrokenProcessPool as error:
        raise DataError(
            "a worker process ended abruptly, as happens when memory runs out; run again with fewer workers, "
            "finished jobs are kept"
        ) from error
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


_worker: tuple[Tokenizer, Path, Callable[[], bool]]


def _start_worker(encoder: Tokenizer, folder: Path, stopped: Callable[[], bool]) -> None:
    global _worker
    _worker = encoder, folder, stopped
    start_worker()


def _work(job: Job) -> None:
    job.encode(*_worker)


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
