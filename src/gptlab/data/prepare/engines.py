"""Engines: who does the jobs of a preparation, processes of this machine or a Ray cluster."""

from collections.abc import Generator, Iterable
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

from gptlab.data.prepare.encode import Engine
from gptlab.data.prepare.jobs import Job, run_jobs
from gptlab.data.prepare.request import Plan
from gptlab.errors import DataError

RETRIES = 3  # of a job whose worker died


def processes(jobs: Iterable[Job], plan: Plan) -> Generator[Job, None, None]:
    """Do jobs in processes of this machine."""
    return run_jobs(jobs, plan.encoder, plan.partial, plan.workers)


def ray(jobs: Iterable[Job], plan: Plan) -> Generator[Job, None, None]:
    """Do jobs as tasks of a Ray cluster: the one that RAY_ADDRESS names or that runs here, else one of its own.

    The folder must be on a file system that all of its machines see; a job whose worker dies is done again.

    Raises:
        DataError: Ray is not installed, or a job failed again and again.
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
            cluster.init(num_cpus=plan.workers, log_to_driver=False, include_dashboard=False)
    task: Any = cluster.remote(num_cpus=1, max_retries=RETRIES)(_encode)
    encoder, folder = cluster.put(plan.encoder), plan.partial.resolve()
    waiting = iter(jobs)
    running: dict[Any, Job] = {}
    try:
        ahead = 2 * max(int(cluster.cluster_resources().get("CPU", 1)), 1)
        for job in islice(waiting, ahead):
            running[task.remote(job, encoder, folder)] = job
        while running:
            for future in cluster.wait(list(running))[0]:
                cluster.get(future)
                yield running.pop(future)
                for job in islice(waiting, 1):
                    running[task.remote(job, encoder, folder)] = job
    except RayTaskError as error:
        raise error.cause from None  # without the traceback of elsewhere that Ray puts into its words
    except RayError as error:
        line = " ".join(str(error).split())
        raise DataError(f"engine ray: {line}; run again to continue, what is done stays") from error
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
