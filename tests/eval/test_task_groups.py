"""What a name stands for, against lm-evaluation-harness's own loader."""

import pytest

pytest.importorskip("lm_eval")


@pytest.fixture
def index():
    from gptlab.eval import harness

    return harness._task_manager().task_index


@pytest.fixture
def loaded_by_the_harness(monkeypatch, index):
    """Let the harness load a name without any data: each task's own configuration by its name."""
    from lm_eval.api.task import ConfigurableTask

    from gptlab.eval import harness

    monkeypatch.setattr(ConfigurableTask, "__init__", lambda self, config: vars(self).update(given=config))
    monkeypatch.setattr(ConfigurableTask, "task_name", property(lambda self: self.given["task"]))

    def load(name):
        return {task: loaded.given for task, loaded in harness._task_manager().load([name])["tasks"].items()}

    return load


@pytest.mark.parametrize("name", ["piqa", "ai2_arc", "mmlu", "pythia", "multimedqa"])
def test_tasks_tags_and_groups_hold_what_the_harness_finds(name, index, loaded_by_the_harness):
    from gptlab.eval.task_groups import members

    expected = loaded_by_the_harness(name)
    found = members(name, index)
    assert {member.name for member in found} == set(expected)
    assert len(found) == len(expected)
    for member in found:
        assert member.said.items() <= expected[member.name].items()


def test_openllm_keeps_every_task_of_its_definition(index, loaded_by_the_harness):
    from gptlab.eval.task_groups import members

    found = {member.name: dict(member.said) for member in members("openllm", index)}
    subjects = {member.name for member in members("mmlu", index)}
    assert len(subjects) == 57
    assert found == {
        "arc_challenge": {"fewshot_split": "train", "num_fewshot": 25},
        "hellaswag": {"fewshot_split": "train", "num_fewshot": 10},
        **{f"truthfulqa_{kind}": {"num_fewshot": 0} for kind in ("gen", "mc1", "mc2")},
        **{subject: {"num_fewshot": 5} for subject in subjects},
        "winogrande": {"fewshot_split": "train", "num_fewshot": 5},
        "gsm8k": {"num_fewshot": 5},
    }
    # Once the harness keeps them all, it can expand its groups itself.
    assert len(loaded_by_the_harness("openllm")) == 6


@pytest.mark.parametrize("name", ["flan_held_in", "t0_eval", "darija_summarization", "toksuite_abridged"])
def test_a_group_that_defines_tasks_itself_is_left_to_the_harness(name, index):
    from gptlab.eval.task_groups import members

    whole = members(name, index)
    assert [(member.name, dict(member.said), member.groups) for member in whole] == [(name, {}, ())]
