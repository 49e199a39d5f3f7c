"""`gptlab publish` against a local hub, with the hub's real client."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import snapshot_download
from model_hub import ModelHub, model_hub

from gptlab import cli
from gptlab.loading import load

# A warning of the client's HTTP library.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelHub]:
    with model_hub(tmp_path / "hub", monkeypatch) as server:
        yield server


class Answer:
    """The outcome of a command."""

    def __init__(self, code: int, captured: Any) -> None:
        self.code, self.out, self.err = code, captured.out, captured.err
        assert "good" not in self.out + self.err  # which is the token


@pytest.fixture
def publish(finished_run: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Publish the tiny run, or another model: `publish("--public")`."""

    def run(*words: str, model: Path = finished_run, to: str = "me/tiny") -> Answer:
        capsys.readouterr()
        return Answer(cli.main(["publish", str(model), to, "--no-verify", *words]), capsys.readouterr())

    return run


def test_what_is_published_loads_elsewhere(
    hub: ModelHub, publish: Any, finished_run: Path, tmp_path: Path
) -> None:
    file = tmp_path / "told.json"
    answer = publish("--json", str(file), "--licence", "mit")
    assert answer.code == 0
    assert "me/tiny: private, GPT2LMHeadModel, not compared" in answer.out
    assert f"{hub.url}/me/tiny/commit/{hub.commit}" in answer.out
    assert json.loads(file.read_text())["private"] is True
    assert hub.private
    (commit,) = hub.commits
    assert commit["message"].startswith("GPT2LMHeadModel from gptlab")
    assert sorted(commit["lfsFile"]) == ["loss.png", "model.safetensors"]
    card = hub.holds()["README.md"].decode()
    assert 'from_pretrained("me/tiny")' in card
    assert "license: mit" in card
    here, _ = load(finished_run, "cpu")
    there, _ = load(snapshot_download("me/tiny", local_dir=tmp_path / "down"), "cpu")
    ids = torch.arange(32)[None]
    with torch.inference_mode():
        assert torch.equal(here(ids), there(ids))


def test_a_second_call_sends_nothing(hub: ModelHub, publish: Any) -> None:
    assert publish().code == 0
    arrived, commits = dict(hub.arrived), len(hub.commits)
    answer = publish()
    assert answer.code == 0
    assert "had all of it already" in answer.out
    assert (dict(hub.arrived), len(hub.commits)) == (arrived, commits)


def test_by_the_hubs_newer_storage_too(
    hub: ModelHub, publish: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("hf_xet")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", False)
    monkeypatch.setenv("HF_XET_CACHE", str(tmp_path / "xet"))
    assert publish().code == 0
    assert hub.large.keys() == {"model.safetensors", "loss.png"}
    arrived = dict(hub.arrived)
    assert sum(arrived.values()) > 100_000
    assert "had all of it already" in publish().out
    assert dict(hub.arrived) == arrived
    assert len(hub.commits) == 1


def test_a_later_checkpoint_replaces_what_changed(hub: ModelHub, publish: Any, finished_run: Path) -> None:
    assert publish(model=finished_run / "checkpoints" / "step_00000004").code == 0
    (hub.folder / "modeling_gptlab.py").write_text("of an earlier export")
    (hub.folder / "LICENSE").write_text("somebody's own")
    assert publish().code == 0
    did = hub.commits[-1]
    assert sorted(did["lfsFile"]) == ["model.safetensors"]
    assert did["file"] == ["README.md", "config.json"]
    assert did["deletedFile"] == ["modeling_gptlab.py"]
    assert "LICENSE" in hub.holds()


def test_a_connection_that_drops_once_is_taken_up(hub: ModelHub, publish: Any) -> None:
    hub.drops = 1
    assert publish().code == 0
    assert len(hub.commits) == 1


def test_a_connection_that_stays_away_and_a_second_call(hub: ModelHub, publish: Any) -> None:
    hub.drops = 1000
    answer = publish()
    assert answer.code == 1
    (line,) = answer.err.splitlines()
    assert line.startswith("gptlab publish: me/tiny: the connection to http://127.0.0.1")
    assert "what has arrived stays there, run again to send the rest" in line
    assert not hub.commits
    hub.drops = 0
    # One of the two large files may have come through; it is not sent again.
    came = {oid: hub.arrived[oid] for oid in hub.objects}
    assert publish().code == 0
    assert {oid: hub.arrived[oid] for oid in came} == came
    assert len(hub.commits) == 1


def test_files_that_arrived_before_a_break_are_not_sent_again(hub: ModelHub, publish: Any) -> None:
    commit = hub.api + "/commit/main"
    hub.refusing[commit] = 503
    answer = publish()
    assert answer.code == 1
    assert "the hub answers with status 503" in answer.err
    assert len(hub.objects) == 2
    arrived = dict(hub.arrived)
    del hub.refusing[commit]
    assert publish().code == 0
    assert dict(hub.arrived) == arrived


def test_without_a_token_nothing_is_asked(
    hub: ModelHub, publish: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    answer = publish()
    assert answer.code == 1
    assert "there is no token for the Hugging Face hub" in answer.err
    assert not hub.asked


def test_a_bad_token_is_not_printed(hub: ModelHub, publish: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    answer = publish()
    assert answer.code == 1
    (line,) = answer.err.splitlines()
    assert 'the hub does not accept the token ("Invalid credentials: Bearer ...")' in line
    assert "hf_secret" not in answer.out + answer.err
    assert not hub.made


def test_somebody_elses_name(hub: ModelHub, publish: Any) -> None:
    answer = publish(to="you/tiny")
    assert answer.code == 1
    assert "you/tiny: the token may not write there" in answer.err
    assert not hub.made


@pytest.mark.parametrize("name", ["tiny", "me/", "/tiny", "me/ti ny", "me/tiny/more"])
def test_what_is_no_name(name: str, hub: ModelHub, publish: Any) -> None:
    answer = publish(to=name)
    assert answer.code == 1
    assert answer.err.splitlines() == [
        f"gptlab publish: {name}: is not the name of a repository; write OWNER/NAME"
    ]


def test_public_when_asked_and_only_then(hub: ModelHub, publish: Any) -> None:
    assert publish().code == 0
    assert hub.private
    answer = publish("--public")
    assert answer.code == 0
    assert "me/tiny: public" in answer.out
    assert not hub.private
    answer = publish()
    assert answer.code == 1
    assert "me/tiny: exists and is public; pass --public to push to it" in answer.err


def test_public_from_the_start(hub: ModelHub, publish: Any) -> None:
    assert publish("--public").code == 0
    assert not hub.private


def test_another_model_is_not_overwritten(hub: ModelHub, publish: Any) -> None:
    hub.made = hub.private = True
    (hub.folder / "config.json").write_text('{"model_type": "gpt2"}')
    answer = publish()
    assert answer.code == 1
    assert "me/tiny: holds a model that gptlab did not write; choose another name" in answer.err
    assert not hub.commits


def test_another_run_is_not_overwritten(
    hub: ModelHub, publish: Any, finished_run: Path, tmp_path: Path
) -> None:
    assert publish().code == 0
    other = shutil.copytree(finished_run, tmp_path / "other")
    answer = publish(model=other)
    assert answer.code == 1
    assert "me/tiny: holds another model of gptlab's; choose another name" in answer.err
    assert len(hub.commits) == 1


def test_a_licence_that_the_hub_does_not_know(hub: ModelHub, publish: Any) -> None:
    answer = publish("--licence", "beerware")
    assert answer.code == 1
    (line,) = answer.err.splitlines()
    assert '"license" must be one of [mit, ...]' in line
    assert not hub.commits


def test_a_hub_that_is_not_there(hub: ModelHub, publish: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    answer = publish()
    assert answer.code == 1
    assert "the connection to http://127.0.0.1:9 failed (ConnectError)" in answer.err


def test_an_export_keeps_the_card_that_somebody_wrote(
    hub: ModelHub, publish: Any, finished_run: Path, tmp_path: Path
) -> None:
    export = tmp_path / "mine"
    assert cli.main(["export", str(finished_run), str(export), "--no-verify"]) == 0
    card = export / "README.md"
    card.write_text(card.read_text() + "\nIt is fond of herons.\n")
    assert publish(model=export).code == 0
    there = hub.holds()["README.md"].decode()
    assert there == card.read_text().replace('from_pretrained("./mine"', 'from_pretrained("me/tiny"')
    assert "It is fond of herons." in there
    answer = publish("--licence", "mit", model=export)
    assert answer.code == 1
    assert "has its own card; write the licence there" in answer.err
