"""A study from its file to its page."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gptlab.actions.ready import check_ready
from gptlab.data.manifest import Manifest
from gptlab.errors import ConfigError, TrainError
from gptlab.eval import tasks
from gptlab.outputs import require_writable
from gptlab.recipe import RunConfig
from gptlab.report.page_folder import INDEX
from gptlab.study import runner
from gptlab.study.design import Arm, design
from gptlab.study.study_file import Study, read_study
from gptlab.study.study_page import write_page
from gptlab.study.study_plan import begin, cost, describe, read_plan, step_seconds
from gptlab.study.trials import (
    Ended,
    Trial,
    best_rates,
    counted,
    do,
    keep,
    read_ended,
    record_of,
    run_of,
    search,
)
from gptlab.train.interrupt import Interrupt
from gptlab.training_evals import task_inputs


def conduct(
    file: Path,
    out: Path,
    *,
    dry_run: bool = False,
    jobs: int | None = None,
    only: str | None = None,
    retry: bool = False,
) -> dict[str, Any]:
    """Run a study, from wherever it stands.

    Arguments as in `gptlab study`.

    Raises:
        GptlabError: the study cannot be run, or has changed since it began.
    """
    at_once = runner.checked_jobs(jobs)
    require_writable(out, "--out")
    study, step_s = read_study(file), dict[str, float]()
    began = read_plan(out)

    arms = design(study, _measured(study, began, step_s), checked=began is not None and not dry_run)
    if only is not None:
        return _do_one(study, arms, out, only)
    if began is None or dry_run:
        step_s |= {
            arm.name: step_s.get(arm.name) or step_seconds(arm.run_config(study.seeds[0])) for arm in arms
        }
        print(describe(study, arms, step_s, at_once), flush=True)
    facts: dict[str, Any] = {"plan": asdict(cost(study, arms, step_s))} if step_s else {}
    if dry_run:
        return {"status": "planned", **facts}
    check_inputs(arms, out)
    with runner.alone(out) as interrupt:
        notes = begin(out, study, arms)
        return facts | _do(study, arms, file, out, at_once, interrupt, notes, retry=retry)


def planned(file: Path, out: Path) -> tuple[list[str], list[str]]:
    """Begin a study whose runs others will do; return the names of its search runs, and of the rest.

    Raises:
        GptlabError: the study cannot be run, or has changed since it began.
    """
    study = read_study(file)
    arms = design(study, _measured(study, read_plan(out), {}))
    check_inputs(arms, out)
    begin(out, study, arms)
    return [trial.name for trial in search(study, arms)], [trial.name for trial in counted(study, arms)]


def check_inputs(arms: list[Arm], out: Path) -> None:
    """Refuse missing data or task items before the first run rather than after it.

    Raises:
        GptlabError: they are missing.
    """
    for arm in arms:
        check_ready(arm.config.data, arm.config.train, arm.config.model.context, out)
    config = arms[0].config
    tokenizer = Manifest.load(config.data.parts[0].path).load_tokenizer(config.data.parts[0].path)
    for name in config.eval.tasks:
        tasks.build(name, task_inputs(config, tokenizer, config.eval.protocol))


def _measured(
    study: Study, began: Mapping[str, Any] | None, step_s: dict[str, float]
) -> Callable[[str, RunConfig], float]:
    """Return the function that measures a step: once, when a study with a budget in hours begins."""

    def measured(name: str, config: RunConfig) -> float:
        if began is not None and name in began["steps"]:
            return 3600 * (study.budget.hours or 0.0) / (began["steps"][name] + 0.5)
        return step_s.setdefault(name, step_seconds(config))

    return measured


def _do(
    study: Study,
    arms: list[Arm],
    file: Path,
    out: Path,
    jobs: int,
    interrupt: Interrupt,
    notes: list[str],
    *,
    retry: bool,
) -> dict[str, Any]:
    trials = counted(study, arms)

    def tell(trial: Trial) -> None:
        ended = read_ended(out, trial)
        assert ended is not None
        what = f"loss {ended.loss:.4f}" if ended.finished else ended.why
        print(f"{trial.name}: {what}", flush=True)
        if trial.rate is None and any(read_ended(out, each) is None for each in trials):
            write_page(out, study, arms, notes)

    if retry:
        # A variant keeps the rate of its runs, or one mean would hold two rates.
        begun = {trial.arm.name for trial in trials if run_of(out, trial).exists()}
        for trial in (*(each for each in search(study, arms) if each.arm.name not in begun), *trials):
            ended = read_ended(out, trial)
            if ended is not None and not ended.finished:
                record_of(out, trial).unlink()
    for each in (search(study, arms), trials):
        if not runner.do_all(file, out, each, jobs, interrupt, tell):
            print(
                f"{out}: interrupted ({interrupt.reason}); all runs are saved. Run the same command again to continue."
            )
            return {"status": "interrupted"}
        if each is not trials and each:
            for name, rate in best_rates(out, study, arms).items():
                print(f"{name}: learning rate {rate:g}", flush=True)
    facts = write_page(out, study, arms, notes)
    print("\n".join([*facts["sentences"], f"{out / INDEX}: the page"]))
    return {"status": "finished", **facts}


def _do_one(study: Study, arms: list[Arm], out: Path, name: str) -> dict[str, Any]:
    """Do one run, in this process."""
    trials = {trial.name: trial for trial in (*search(study, arms), *counted(study, arms))}
    if name not in trials:
        raise ConfigError(f"--only {name}: the study has no such run; it has {', '.join(trials)}")
    trial, notes = trials[name], begin(out, study, arms)
    ended = read_ended(out, trial)
    if ended is None:
        runner.stop_when_asked()
        rates = best_rates(out, study, arms) if study.tune and trial.rate is None else {}
        if study.tune and trial.rate is None and trial.arm.name not in rates:
            keep(out, trial, Ended("failed", "no run of the search for its learning rate finished"))
        elif do(out, trial, rates.get(trial.arm.name)) == "interrupted":
            return {"status": "interrupted"}
        ended = read_ended(out, trial)
    assert ended is not None
    if all(read_ended(out, each) is not None for each in counted(study, arms)):
        write_page(out, study, arms, notes)  # the last of an array's jobs
    if not ended.finished:
        raise TrainError(f"{name}: {ended.status} ({ended.reason})")
    return {"status": "finished", "notes": notes}
