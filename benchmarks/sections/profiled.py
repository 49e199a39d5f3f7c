"""What a compiled step is made of, and which kernels."""

from collections.abc import Iterator, Mapping
from typing import Any

from gptlab.bench.bench import measured
from gptlab.bench.printed import lines
from gptlab.bench.rig import Rig
from gptlab.data.mixture import DataConfig
from gptlab.model.gpt import ModelConfig
from gptlab.recipe import RunConfig
from gptlab.train.config import TrainConfig

from .section import Complaint, Job

KERNELS = 25


def run(job: Job) -> None:
    """Measure compiled steps as `gptlab bench` does, and share out the device's time in three among its kernels."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiled

    cuda = job.device.type == "cuda"
    with Rig(_config(job)) as rig:
        job.note(bench=measured(rig, job.sized(5, 1)))
        with profiled(activities=[ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * cuda) as profiler:
            wall = sum(rig.step().seconds for _ in range(3))
    times = _kernel_times(profiler, cuda)
    total = sum(seconds for _, seconds, _ in times)
    job.note(
        profiled_wall_s=wall,
        device_s=total,
        kinds=len(times),
        kernels=[
            {"name": name, "seconds": seconds, "calls": calls, "share": seconds / total}
            for name, seconds, calls in times[:KERNELS]
        ],
    )
    if not times:
        raise Complaint("the profiler saw no kernel")


def _config(job: Job) -> RunConfig:
    work = job.work()
    return RunConfig(
        model=ModelConfig(**work.shape, vocab_size=work.vocabulary),
        data=DataConfig(path="none"),  # random tokens
        train=TrainConfig(
            batch_tokens=work.tokens,
            micro_batch=work.sequences,
            dtype=work.dtype,
            device=work.device,
            compile=not job.tiny,
        ),
    )


def _kernel_times(profiler: Any, cuda: bool) -> list[tuple[str, float, int]]:
    """Return the names, seconds and calls of all kernels, the longest first."""
    found: list[tuple[str, float, int]] = []
    for event in profiler.key_averages():
        # Annotations of the host are on the device's time line too, around the kernels that they launch.
        if cuda and (event.device_type.name != "CUDA" or event.is_user_annotation):
            continue
        micros = event.self_device_time_total if cuda else event.self_cpu_time_total
        if micros > 0:
            found.append((event.key[:160], micros / 1e6, event.count))
    return sorted(found, key=lambda one: -one[1])


def told(found: Mapping[str, Any]) -> Iterator[str]:
    yield from lines(found["bench"])
    yield (
        f"kernels of {found['kinds']} kinds take {found['device_s']:.3f} s of three steps' "
        f"{found['profiled_wall_s']:.3f} s under the profiler"
    )
    for kernel in found["kernels"][:8]:
        yield f"{100 * kernel['share']:5.1f} %  {kernel['calls']:>5} calls  {kernel['name'][:80]}"
