"""A set and a model of different tokenizers never meet: every way to bring them together is refused by name."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from gptlab import cli
from gptlab.data.manifest import Manifest

Refusal = Callable[..., str]


@pytest.fixture(scope="module")
def sets(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same text by three tokenizers: bytes, and two of 300 entries from different text."""
    folder, source = tmp_path_factory.mktemp("sets"), tiny_data.parent / "english.jsonl"
    (folder / "digits.txt").write_text(" ".join(str(number * number) for number in range(2000)))
    for name, text in (("words", source), ("digits", folder / "digits.txt")):
        made = ["data", "tokenizer", str(text), str(folder / f"{name}.json"), "--vocab-size", "300"]
        assert cli.main(made) == 0
        prepared = [
            "data",
            "prepare",
            str(source),
            str(folder / name),
            "--val-tokens",
            "2000",
            "--workers",
            "1",
        ]
        assert cli.main([*prepared, "--tokenizer", str(folder / f"{name}.json")]) == 0
    assert cli.main([*prepared[:3], str(folder / "bytes"), *prepared[4:], "--tokenizer", "bytes"]) == 0
    return folder


@pytest.fixture(scope="module")
def run(sets: Path, tiny_recipe: Path) -> Path:
    """A run of two steps on the first of the two."""
    out = sets / "run"
    words = ["train", str(tiny_recipe), "--data.path", str(sets / "words"), "--out", str(out)]
    assert cli.main([*words, "--train.steps", "2", "--schedule.warmup-steps", "1", "--eval.tasks"]) == 0
    return out


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str], torch_settings: None) -> Refusal:
    def run_command(*words: object) -> str:
        capsys.readouterr()
        assert cli.main([str(word) for word in words]) == 1
        return capsys.readouterr().err.splitlines()[-1]

    return run_command


def named(folder: Path) -> str:
    """How an error names a set's tokenizer."""
    record = Manifest.load(folder).tokenizer
    return f"{record.name} ({record.hash[:12]})"


def test_the_two_files_differ_in_the_hash_alone(sets: Path):
    words, digits = (Manifest.load(sets / name).tokenizer for name in ("words", "digits"))
    assert words.hash != digits.hash
    assert (words.name, words.vocab_size) == (digits.name, digits.vocab_size)


@pytest.mark.parametrize("task", ["loss", "continuation"])
@pytest.mark.parametrize("other", ["digits", "bytes"])
def test_a_model_is_not_measured_on_a_set_of_another(
    task: str, other: str, sets: Path, run: Path, refused: Refusal
):
    line = refused("eval", run, "--task", task, "--data", sets / other)
    assert f"its tokenizer is {named(sets / other)}, the model reads {named(sets / 'words')}" in line
    assert "prepare the text again with the model's own" in line


def test_nor_is_its_export(sets: Path, run: Path, refused: Refusal, tmp_path: Path):
    assert cli.main(["export", str(run), str(tmp_path / "export"), "--no-verify"]) == 0
    assert cli.main(["eval", str(tmp_path / "export"), "--task", "loss", "--data", str(sets / "words")]) == 0
    line = refused("eval", tmp_path / "export", "--task", "loss", "--data", sets / "digits")
    assert f"its tokenizer is {named(sets / 'digits')}, the model reads" in line


@pytest.mark.parametrize("other", ["digits", "bytes"])
def test_a_run_does_not_go_on_with_a_set_of_another(other: str, sets: Path, run: Path, refused: Refusal):
    line = refused(
        "train", run / "config.toml", "--data.path", sets / other, "--train.steps", 4, "--out", run
    )
    ours, theirs = (Manifest.load(sets / name).tokenizer for name in ("words", other))
    if ours.name == theirs.name:
        assert f"its tokenizer.hash is {ours.hash}, the recipe's is {theirs.hash}" in line
    else:
        assert f"its tokenizer.name is {ours.name}, the recipe's is {theirs.name}" in line


def test_a_vocabulary_smaller_than_the_sets_is_refused(
    sets: Path, tiny_recipe: Path, refused: Refusal, tmp_path: Path
):
    new = ["train", tiny_recipe, "--data.path", sets / "words", "--out", tmp_path / "new"]
    line = refused(*new, "--model.vocab-size", 257)
    assert f"model.vocab_size = 257: the tokenizer of {sets / 'words'} has 300" in line
    assert not (tmp_path / "new").exists()


def test_a_set_whose_tokenizer_was_exchanged_is_refused(
    sets: Path, tiny_recipe: Path, run: Path, refused: Refusal, tmp_path: Path
):
    mixed = tmp_path / "mixed"
    shutil.copytree(sets / "words", mixed)
    shutil.copy(sets / "digits" / "tokenizer.json", mixed)
    complaint = f"its tokenizer is {named(sets / 'digits')}, but {named(sets / 'words')} made the tokens"
    for words in (
        ["data", "verify", mixed],
        ["train", tiny_recipe, "--data.path", mixed, "--out", tmp_path / "new"],
    ):
        assert complaint in refused(*words)


def test_a_checkpoint_whose_tokenizer_was_exchanged_is_refused(
    sets: Path, run: Path, refused: Refusal, tmp_path: Path
):
    mixed = tmp_path / "run"
    shutil.copytree(run, mixed)
    for file in mixed.glob("checkpoints/*/tokenizer.json"):
        shutil.copy(sets / "digits" / "tokenizer.json", file)
    line = refused("eval", mixed, "--task", "loss", "--data", sets / "words")
    assert "tokenizer.json: its sha256 differs from the one in state.json" in line
