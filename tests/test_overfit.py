"""`gptlab check RECIPE --overfit`: a sound recipe learns one batch by heart, a broken one does not."""

import json

import pytest
import torch

from gptlab import cli, recipe
from gptlab.actions import overfit
from gptlab.data.mixture import Sets
from gptlab.model import gpt
from gptlab.model.check import CHECKS

pytestmark = pytest.mark.usefixtures("torch_settings")


@pytest.fixture
def checked(tiny_recipe, capsys, monkeypatch):
    """Run the command, and return its exit code, its last line and what it says of an error."""
    # The others have their own tests.
    monkeypatch.setattr("gptlab.model.check.CHECKS", {"size": CHECKS["size"]})

    def run(*words):
        code = cli.main(["check", str(tiny_recipe), "--overfit", *map(str, words)])
        said = capsys.readouterr()
        error = "".join(line for line in said.err.splitlines(True) if not line.startswith("overfitting "))
        return code, (said.out.splitlines() or [""])[-1], error  # without the progress of a slow machine

    return run


def test_the_batch_is_the_first_of_the_run(tiny_recipe):
    config = recipe.load([tiny_recipe])
    ids, targets = Sets(config.data, 32, config.order_seed).batches.batch(0, 4)
    batch = overfit.first_batch(config)
    assert torch.equal(batch.ids, ids)
    assert torch.equal(batch.targets, targets)
    for train, rows in (({"micro_batch": 2}, 2), ({"batch_tokens": 96}, 3)):
        assert len(overfit.first_batch(recipe.load([tiny_recipe], {"train": train})).ids) == rows


@pytest.mark.parametrize("words", [[], ["--optim.name", "muon"]])
def test_a_sound_recipe_learns_it(checked, tmp_path, words):
    code, line, error = checked("--json", tmp_path / "facts.json", *words)
    assert (code, error) == (0, "")
    assert line.startswith("passed  overfit        5.")
    assert "on 4 sequences of 32 tokens from" in line
    fact = json.loads((tmp_path / "facts.json").read_text())["overfit"]
    assert line.endswith(fact["detail"])
    assert float(fact["detail"].split()[2]) < overfit.LEARNED


def detached(monkeypatch):
    hidden = gpt.GPT.hidden_states
    monkeypatch.setattr(gpt.GPT, "hidden_states", lambda *given, **named: hidden(*given, **named).detach())


def not_updated(monkeypatch):
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self, closure=None: None)


def without_gradients(monkeypatch):
    made = gpt.GPT.__init__
    monkeypatch.setattr(
        gpt.GPT, "__init__", lambda self, config: (made(self, config), self.requires_grad_(False))[0]
    )


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (detached, "after 90 steps"),
        (not_updated, "after 90 steps"),
        (without_gradients, "raised RuntimeError: "),
    ],
)
def test_a_broken_model_fails(checked, monkeypatch, broken, said):
    monkeypatch.setattr(overfit, "STEPS", 90)  # the sound one needs half as many
    broken(monkeypatch)
    code, line, error = checked()
    assert code == 1
    assert line.startswith("failed  overfit ")
    assert said in line
    assert error == "gptlab check: the recipe fails overfit; see above for what was measured\n"


def test_missing_data_are_refused_before_anything_is_tested(checked, tmp_path, monkeypatch):
    monkeypatch.setattr("gptlab.model.check.run_checks", None)
    code, line, error = checked("--data.path", tmp_path / "none")
    assert (code, line) == (1, "")
    assert error == (
        f"gptlab check: {tmp_path}/none: there is no such folder; make it with "
        f'"gptlab data prepare SOURCE {tmp_path}/none", or name the one you have\n'
    )
