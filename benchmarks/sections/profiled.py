"""A profile of three steps."""

import time
from collections.abc import Iterator, Mapping
from typing import Any

from step import Side, gptlab_model, training_step

from .section import Complaint, Job

KERNELS = 25


def run(job: Job) -> None:
    """Share out the device's time in three compiled steps among its kernels."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiled

    cuda = job.device.type == "cuda"
    work = job.work()
    compiled = not job.tiny
    step = training_step(Side(gptlab_model, compiled), work)
    for _ in range(3):
        step()
    began = time.perf_counter()
    for _ in range(3):
        step()
    plain = time.perf_counter() - began
    with profiled(activities=[ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * cuda) as profiler:
        began = time.perf_counter()
        for _ in range(3):
            step()
        wall = time.perf_counter() - began
    times = _kernel_times(profiler, cuda)
    total = sum(seconds for _, seconds, _ in times)
    job.note(
        tokens=3 * work.tokens,
        compiled=compiled,
        wall_s=plain,
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
    what = "three compiled steps" if found["compiled"] else "three steps"
    yield (
        f"{what}: {found['wall_s']:.3f} s, kernels {found['device_s']:.3f} s of {found['kinds']} kinds in "
        f"{found['profiled_wall_s']:.3f} s under the profiler"
    )
    for kernel in found["kernels"][:8]:
        yield f"{100 * kernel['share']:5.1f} %  {kernel['calls']:>5} calls  {kernel['name'][:80]}"
