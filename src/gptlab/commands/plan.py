"""`gptlab plan`."""

from pathlib import Path
from typing import Any

from gptlab.errors import ConfigError


def run(
    run: Path | None = None,
    /,
    *,
    hours: float | None = None,
    gpu: str = "A100",
    gpus: int = 1,
    calibrate: bool = False,
    dollars: float | None = None,
    data: str = "fineweb",
    recipe: Path = Path("gpt2_124m"),
    write: Path | None = None,
) -> dict[str, Any]:
    """Turn a budget into a recipe: which size, how many tokens, what it will score and cost; or judge a run.

    Args:
        run: a run to compare with what can be expected of it, instead of a budget.
        hours: the time there is.
        gpu: what it will run on, a name such as A100 or T4.
        gpus: how many of them.
        calibrate: measure this machine for a minute, instead of the table of GPUs.
        dollars: the money there is; hours may be left out.
        data: fineweb, fineweb-edu, or a prepared folder.
        recipe: the recipe whose sizes are compared, a file or the name of one of gptlab's.
        write: file for the recipe of the best size.
    """
    if run is not None:
        given = {"--hours": hours, "--dollars": dollars, "--write": write, "--calibrate": calibrate or None}
        for flag in (flag for flag, value in given.items() if value is not None):
            raise ConfigError(f"{flag}: is for a new plan; a run has its own recipe, so leave it out")
        from gptlab.plan.course import course_of

        return course_of(run)
    from gptlab.plan.plan import plan

    return plan(
        recipe,
        data,
        hours=hours,
        dollars=dollars,
        gpu=gpu,
        gpus=gpus,
        calibrate=calibrate,
        write=write,
    )
