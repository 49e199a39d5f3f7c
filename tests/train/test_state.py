"""state.json, damaged or edited: detected when it is read, or refused when it is restored."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import gptlab
from gptlab import storage
from gptlab.errors import CheckpointError
from gptlab.runs import checkpoint


def save(run, step=1, **state):
    tensors = {"weight": torch.ones(2)}
    return checkpoint.save(run, {"step": step, **state}, model=tensors, optimizer=tensors, files={})


def rewrite(folder, change, *, mend=False):
    """Change state.json; if mended, remove its hash, as in checkpoints of before there was one."""
    path = folder / "state.json"
    state = json.loads(path.read_text())
    change(state)
    if mend:
        del state["state_sha256"]
    path.write_text(json.dumps(state))


def test_a_state_that_changed_is_not_taken_for_what_was_saved(tmp_path):
    folder = save(tmp_path, random=[1, 2, 3])
    assert checkpoint.load(folder).state["random"] == [1, 2, 3]
    rewrite(folder, lambda state: state["random"].__setitem__(1, 7))
    with pytest.raises(
        CheckpointError,
        match=r"state\.json: damaged \(ValueError: state_sha256 does not match; if you edited the file",
    ):
        checkpoint.load(folder)


def test_a_state_from_before_it_was_hashed_is_taken(tmp_path):
    folder = save(tmp_path)
    rewrite(folder, lambda state: None, mend=True)
    assert checkpoint.load(folder).state["step"] == 1


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda state: state.pop("sha256"), "damaged"),
        (lambda state: state.update(sha256=[1]), "damaged"),
        (lambda state: state.update(step=True), "damaged"),
        (lambda state: state["sha256"].pop("model.safetensors"), "lists the wrong files"),
        (
            lambda state: state["sha256"].update({"../../latest": "0"}),
            "lists the wrong files",
        ),
        (lambda state: state["sha256"].update({"absent": "0"}), "absent is missing"),
    ],
)
def test_a_state_that_is_none_is_refused(change, complaint, tmp_path):
    folder = save(tmp_path)

    def changed(state):
        del state["state_sha256"]
        change(state)

    rewrite(folder, changed)
    with pytest.raises(CheckpointError, match=complaint) as caught:
        checkpoint.load(folder)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_under_another_ones_name_is_passed_over(tmp_path):
    save(tmp_path, 1)
    save(tmp_path, 2).rename(checkpoint.folder_of(tmp_path, 3))
    told = []
    assert checkpoint.newest(tmp_path, told.append).state["step"] == 1
    assert "is from step 2" in told[0]


def test_a_checkpoint_of_before_a_switch_existed_goes_on(train, tmp_path):
    out = tmp_path / "run"
    train(out, {"train": {"steps": 4}})
    newest = out / "checkpoints" / "step_00000004"
    rewrite(
        newest, lambda state: [state["model"].pop(key) for key in ("embed_norm", "residual_init")], mend=True
    )
    assert train(out, {"train": {"steps": 5}})["step"] == 5


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        ("tokens", -64, "tokens -64"),
        ("tokens", "many", "tokens = 'many'"),
        ("skip", [[5, 2]], r"skip \[\(5, 2\)\]"),
        ("best", {"step": 1}, "best"),
        ("random", {}, "KeyError"),
        ("guard", {"bad": 0}, "since"),
        ("budget", {"hours": None}, "most"),
        ("budget", 7, "budget|= 7"),
        ("scaler", None, ""),
        ("micro_batch", "many", ""),
    ],
)
def test_a_run_does_not_go_on_from_a_state_that_no_run_leaves(key, value, complaint, train, tmp_path):
    out = tmp_path / "run"
    train(out, {"train": {"steps": 4}})
    rewrite(out / "checkpoints" / "step_00000004", lambda state: state.update({key: value}), mend=True)
    if not complaint:  # irrelevant here
        assert train(out, {"train": {"steps": 5}})["step"] == 5
        return
    with pytest.raises(
        CheckpointError, match=rf"state\.json: damaged .*{complaint}.*move step_00000004 away"
    ):
        train(out, {"train": {"steps": 5}})


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors: tensors.update({"norm.bias/exp_avg": torch.zeros(5)}),
        lambda tensors: tensors.update({"norm.bias/exp_avg": tensors["norm.bias/exp_avg"].int()}),
        lambda tensors: tensors.pop("norm.bias/exp_avg_sq"),
    ],
)
def test_an_optimizers_state_of_another_make_is_refused(change, train, tmp_path):
    out = tmp_path / "run"
    train(out, {"train": {"steps": 4}})
    folder = out / "checkpoints" / "step_00000004"
    tensors = load_file(folder / "optimizer.safetensors")
    change(tensors)
    save_file(tensors, folder / "optimizer.safetensors")
    digest = storage.file_sha256(folder / "optimizer.safetensors")
    rewrite(folder, lambda state: state["sha256"].update({"optimizer.safetensors": digest}), mend=True)
    with pytest.raises(CheckpointError, match=r"optimizer\.safetensors does not fit"):
        train(out, {"train": {"steps": 5}})


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda state: state["model"].update(position="rope", context=2**24), "do not fit each other"),
        (
            lambda state: state["model"].update(context=2**62),
            "context = 4611686018427387904: must lie between",
        ),
        (lambda state: state["model"].update(n_layer=1000), "is missing"),
        (lambda state: state["model"].update(n_head="two"), "n_head = 'two'"),
        (lambda state: state.update(model=[]), "do not fit each other"),
        (lambda state: state.update(tokenizer=7), "its tokenizer, 7, is neither known nor there"),
        (lambda state: state["tokenizer"].update(name="../x"), "is neither known nor there"),
        (lambda state: state["tokenizer"].update(hash="0"), "is not the one found here"),
    ],
)
def test_a_model_that_is_not_that_of_the_weights(change, complaint, train, tmp_path):
    out = tmp_path / "run"
    train(out, {"train": {"steps": 2}})
    rewrite(out / "checkpoints" / "step_00000002", change, mend=True)
    with pytest.raises(CheckpointError, match=complaint) as caught:
        gptlab.load(out, "cpu")
    assert "\n" not in str(caught.value)
