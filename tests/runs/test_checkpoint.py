"""Checkpoint folders: every kind of damage is reported, and the previous one is used."""

import json

import pytest
import torch

from gptlab import storage
from gptlab.errors import CheckpointError
from gptlab.runs import checkpoint


def save(run, step):
    weight = torch.full((3, 5), float(step))
    return checkpoint.save(
        run,
        {"step": step},
        model={"weight": weight},
        optimizer={"weight/m": weight},
        files={"tokenizer.json": b"{}"},
    )


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def edit(folder, **changes):
    state = folder / "state.json"
    state.write_text(json.dumps({**json.loads(state.read_text()), **changes}))


DAMAGES = {
    "weights missing": (
        lambda folder: (folder / "model.safetensors").unlink(),
        "model.safetensors is missing",
    ),
    "optimizer missing": (
        lambda folder: (folder / "optimizer.safetensors").unlink(),
        "optimizer.safetensors is missing",
    ),
    "tokenizer missing": (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer.json is missing"),
    "state missing": (lambda folder: (folder / "state.json").unlink(), "no state.json"),
    "a bit flipped": (lambda folder: flip(folder / "model.safetensors"), "model.safetensors: its sha256"),
    "cut short": (
        lambda folder: (folder / "optimizer.safetensors").write_bytes(b"\0" * 9),
        "optimizer.safetensors: its sha256",
    ),
    "weights empty": (lambda folder: (folder / "model.safetensors").write_bytes(b""), "its sha256"),
    "state empty": (lambda folder: (folder / "state.json").write_bytes(b""), "state.json: damaged"),
    "state of zeros": (
        lambda folder: (folder / "state.json").write_bytes(b"\0" * 512),
        "state.json: damaged",
    ),
    "state cut short": (
        lambda folder: (folder / "state.json").write_text((folder / "state.json").read_text()[:-9]),
        "state.json: damaged",
    ),
    "state of another kind": (
        lambda folder: (folder / "state.json").write_text("[1]"),
        "state.json: damaged",
    ),
    "no step": (lambda folder: edit(folder, step=None), "state.json"),
    "no hashes": (lambda folder: edit(folder, sha256={}), "state.json"),
    "an empty folder": (lambda folder: [file.unlink() for file in folder.iterdir()], "no state.json"),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_newest_one_is_named_and_the_one_before_used(tmp_path, kind):
    damage, words = DAMAGES[kind]
    for step in (1, 2):
        folder = save(tmp_path, step)
    damage(folder)
    told = []
    found = checkpoint.newest(tmp_path, told.append)
    assert (found.folder.name, found.state["step"]) == ("step_00000001", 1)
    [line] = told
    assert "step_00000002" in line
    assert words in line
    assert "earlier" in line or kind in ("state missing", "an empty folder")
    save(tmp_path, 2)  # and the same step can be saved over it
    assert checkpoint.newest(tmp_path, told.append).state["step"] == 2
    assert len(told) == 1


def test_a_half_written_one_does_not_count(tmp_path):
    save(tmp_path, 1)
    half = storage.unfinished(checkpoint.folder_of(tmp_path, 2))
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half")
    told = []
    assert checkpoint.newest(tmp_path, told.append).state["step"] == 1
    assert told == []
    save(tmp_path, 2)
    assert not half.exists()
    assert checkpoint.newest(tmp_path, told.append).model()["weight"].unique().item() == 2


def test_all_damaged_is_an_error_and_none_is_not(tmp_path):
    assert checkpoint.newest(tmp_path, print) is None
    for step in (1, 2):
        flip(save(tmp_path, step) / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"all 2 checkpoints are damaged; move the folder away"):
        checkpoint.newest(tmp_path, lambda line: None)


def test_what_is_kept(tmp_path):
    for step in range(1, 9):
        save(tmp_path, step)
    checkpoint.point(tmp_path / "best", checkpoint.folder_of(tmp_path, 2))
    checkpoint.prune(tmp_path, 2, every=3, rollback_limit=5)
    assert [checkpoint.step_of(folder) for folder in checkpoint.folders_of(tmp_path)] == [2, 3, 5, 6, 7, 8]
    checkpoint.prune(tmp_path, 1)
    assert [checkpoint.step_of(folder) for folder in checkpoint.folders_of(tmp_path)] == [2, 8]


def test_going_back_sets_aside_what_came_after(tmp_path):
    for step in (1, 2, 3):
        save(tmp_path, step)
    checkpoint.point(tmp_path / "best", checkpoint.folder_of(tmp_path, 3))
    checkpoint.rewind(tmp_path, 2, 1)
    assert checkpoint.pointed(tmp_path / "latest") == checkpoint.folder_of(tmp_path, 2)
    assert checkpoint.pointed(tmp_path / "best") == checkpoint.folder_of(tmp_path, 1)
    assert [checkpoint.step_of(folder) for folder in checkpoint.folders_of(tmp_path)] == [1, 2]
    checkpoint.rewind(tmp_path, 1, None)
    assert checkpoint.pointed(tmp_path / "best") is None
    assert (tmp_path / "latest").read_text() == "step_00000001\n"


@pytest.mark.parametrize(
    "text",
    [b"", b"\n", b"step_00000009\n", b"..", b"\xff\0", b"/", b"../checkpoints/step_00000001", b"x" * 5000],
)
def test_a_pointer_that_names_nothing_points_nowhere(tmp_path, text):
    save(tmp_path, 1)
    (tmp_path / "best").write_bytes(text)
    assert checkpoint.pointed(tmp_path / "best") is None
