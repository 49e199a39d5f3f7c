"""One rule for all outputs: only a new version of the same thing overwrites an old one."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gptlab import cli
from gptlab.errors import ConfigError
from gptlab.outputs import fingerprint, require_writable, require_writable_file
from gptlab.report.datasheet import write_page

Refused = Callable[..., str]


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    """Run a command that must be refused, and return its one-line reason."""

    def run(*words: object) -> str:
        capsys.readouterr()
        assert cli.main([*map(str, words)]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        return line.partition(": ")[2]

    return run


@pytest.fixture
def runs(finished_run: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Two runs of the same shape, each with its own weights."""
    for name in ("first", "second"):
        shutil.copytree(finished_run, tmp_path / name)
    return tmp_path / "first", tmp_path / "second"


def contents(place: Path) -> dict[str, bytes]:
    files = place.rglob("*") if place.is_dir() else [place]
    return {str(file): file.read_bytes() for file in files if file.is_file()}


def test_an_export_of_another_run_stays(runs: tuple[Path, Path], tmp_path: Path, refused: Refused) -> None:
    first, second = runs
    out = tmp_path / "out"
    out.mkdir()
    assert cli.main(["export", str(first), str(out), "--no-verify"]) == 0
    before = contents(out)
    told = f"{out}: holds the export of a GPT2LMHeadModel; choose another folder or delete this one"
    assert refused("export", second, out, "--no-verify") == told
    assert contents(out) == before
    # The same run, wherever it is, and any of its checkpoints.
    (tmp_path / "elsewhere").mkdir()
    moved = shutil.move(first, tmp_path / "elsewhere" / "first")
    assert cli.main(["export", str(moved), str(out), "--no-verify"]) == 0
    assert cli.main(["export", f"{moved}/checkpoints/step_00000008", str(out), "--no-verify"]) == 0
    # An export of the export counts as the same run.
    assert cli.main(["export", str(out), str(tmp_path / "copy"), "--no-verify"]) == 0
    assert cli.main(["export", str(moved), str(tmp_path / "copy"), "--no-verify"]) == 0
    (out / "notes.txt").write_text("mine")
    assert "holds notes.txt, which is not part of any export" in refused("export", moved, out, "--no-verify")


def test_it_is_refused_before_the_work(
    runs: tuple[Path, Path], tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    for words in (["export", "out"], ["export", "m.gguf", "--to", "gguf"]):
        place = [str(tmp_path / words[1]), *words[2:]]
        if "gguf" in words:
            pytest.importorskip("gguf")
        assert cli.main(["export", str(runs[0]), *place, "--no-verify"]) == 0

    def load(*_: object, **__: object) -> None:
        raise AssertionError("the model was read")

    monkeypatch.setattr("gptlab.actions.export.load", load)
    assert "holds the export of" in refused("export", runs[1], tmp_path / "out")
    assert "holds the GGUF file of" in refused("export", runs[1], tmp_path / "m.gguf", "--to", "gguf")
    monkeypatch.setattr("gptlab.report.runs.draw", load)
    thesis = tmp_path / "thesis"
    thesis.mkdir()
    (thesis / "thesis.tex").touch()
    assert "holds thesis.tex, which is not part of any report" in refused("report", runs[0], "--out", thesis)


def test_an_export_that_does_not_say_whose_it_is(
    runs: tuple[Path, Path], tmp_path: Path, refused: Refused
) -> None:
    """As older versions wrote them: overwritten if the weights are the model's."""
    first, out = runs[0], tmp_path / "out"
    assert cli.main(["export", str(first), str(out), "--no-verify"]) == 0
    config = out / "config.json"
    said = json.loads(config.read_text())
    del said["gptlab"]["of"]
    config.write_text(json.dumps(said))
    other = first / "checkpoints" / "step_00000004"
    assert "holds an export with other weights, which does not say whose" in refused(
        "export", other, out, "--no-verify"
    )
    assert cli.main(["export", str(first), str(out), "--no-verify"]) == 0
    assert "of" in json.loads(config.read_text())["gptlab"]


def test_a_gguf_file_of_another_run_stays(runs: tuple[Path, Path], tmp_path: Path, refused: Refused) -> None:
    gguf: Any = pytest.importorskip("gguf")
    first, second = runs
    file = tmp_path / "model.gguf"
    words = ["--to", "gguf", "--no-verify"]
    assert cli.main(["export", str(first), str(file), *words]) == 0
    before = file.read_bytes()
    told = f"{file}: holds the GGUF file of first; choose another file or delete this one"
    assert refused("export", second, file, *words) == told
    assert file.read_bytes() == before
    assert cli.main(["export", str(first), str(file), *words, "--dtype", "float16"]) == 0
    assert gguf.GGUFReader(file).fields["general.name"].contents() == "first"
    # It may be next to other people's files, but not overwrite one.
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "theirs.gguf").write_bytes(b"GGUF")
    assert cli.main(["export", str(first), str(folder), *words]) == 0
    for name in ("theirs.gguf", "empty.gguf"):
        (folder / "empty.gguf").touch()
        assert "exists and is not a GGUF file written by gptlab" in refused(
            "export", first, folder / name, *words
        )
    assert (folder / "theirs.gguf").read_bytes() == b"GGUF"


def test_a_data_sheet_of_other_data_stays(tiny_data: Path, tmp_path: Path, refused: Refused) -> None:
    other, out = tmp_path / "other", tmp_path / "sheet"
    shutil.copytree(tiny_data, other)
    assert cli.main(["data", "inspect", str(tiny_data), "--out", str(out)]) == 0
    before = contents(out)
    told = f"{out}: holds the data sheet of bytes; choose another folder or delete this one"
    assert refused("data", "inspect", other, "--out", out) == told
    assert contents(out) == before
    assert cli.main(["data", "inspect", str(tiny_data), "--out", str(out)]) == 0
    assert contents(out) == before
    with pytest.raises(ConfigError, match=r"holds \w+\.\w+, which is not part of any data sheet"):
        write_page({"folder": str(other), "splits": {}}, other)


def test_a_report_does_not_replace_a_data_sheet(
    tiny_data: Path, finished_run: Path, tmp_path: Path, refused: Refused
) -> None:
    out = tmp_path / "page"
    assert cli.main(["data", "inspect", str(tiny_data), "--out", str(out)]) == 0
    assert "holds the data sheet of bytes" in refused("report", finished_run, "--out", out)


def test_what_may_have_been_worked_on_is_never_replaced(
    finished_run: Path, tmp_path: Path, refused: Refused
) -> None:
    demo, file = tmp_path / "demo", tmp_path / "file"
    file.touch()
    demo.mkdir()
    (demo / "demo.json").write_text("[]")
    told = f"{demo}: already holds demo.json; choose another folder or delete this one"
    assert refused("demo", "--out", demo) == told
    assert refused("demo", "--out", file) == f"{file}: is a file; choose a folder"
    assert cli.main(["export", str(finished_run), str(tmp_path / "hf"), "--no-verify"]) == 0
    assert cli.main(["import", str(tmp_path / "hf"), str(tmp_path / "run"), "--no-verify"]) == 0
    told = f"{tmp_path / 'run'}: already holds checkpoints; choose another folder or delete this one"
    assert refused("import", tmp_path / "hf", tmp_path / "run") == told
    assert refused("import", tmp_path / "hf", file) == f"{file}: is a file; choose a folder"


def test_imports_of_one_name_are_told_apart(finished_run: Path, tmp_path: Path, refused: Refused) -> None:
    """They have no environment.json; the checkpoint of step 0 identifies them by their weights."""
    for step in (4, 12):
        model = finished_run / "checkpoints" / f"step_{step:08d}"
        assert cli.main(["export", str(model), str(tmp_path / f"hf{step}"), "--no-verify"]) == 0
        words = ["import", str(tmp_path / f"hf{step}"), str(tmp_path / str(step) / "it"), "--no-verify"]
        assert cli.main(words) == 0
    out = tmp_path / "out"
    assert cli.main(["export", str(tmp_path / "4" / "it"), str(out), "--no-verify"]) == 0
    assert "holds the export of" in refused("export", tmp_path / "12" / "it", out, "--no-verify")
    assert cli.main(["export", str(tmp_path / "4" / "it"), str(out), "--no-verify"]) == 0


def test_fingerprints_know_where_a_part_ends() -> None:
    assert len({fingerprint("ab", "c"), fingerprint("a", "bc"), fingerprint("abc")}) == 3
    assert fingerprint("a") == fingerprint(b"a")


@pytest.mark.parametrize(
    "words",
    [
        ["report", "first", "--out", "PLACE"],
        ["data", "inspect", "DATA", "--out", "PLACE"],
        ["data", "prepare", "python-docs", "PLACE", "--tokenizer", "bytes"],
        ["data", "merge", "PLACE"],
        ["export", "first", "PLACE"],
        ["export", "first", "PLACE.gguf", "--to", "gguf"],
        ["import", "first", "PLACE"],
        ["slurm", "RECIPE", "--out", "PLACE", "--hours", "1"],
        ["demo", "--out", "PLACE"],
        ["train", "RECIPE", "--out", "PLACE"],
        ["eval", "first", "--task", "loss", "--data", "DATA", "--json", "PLACE"],
        ["eval", "first", "--task", "continuation", "--data", "DATA", "--samples", "PLACE"],
        ["sample", "first", "--json=PLACE"],
        ["data", "list", "--json", "PLACE"],
        ["data", "adopt", "DATA", "--json", "PLACE"],
    ],
)
def test_what_cannot_be_written_is_said_before_the_work(
    runs: tuple[Path, Path],
    tiny_data: Path,
    tiny_recipe: Path,
    tmp_path: Path,
    words: list[str],
    refused: Refused,
) -> None:
    """A file is where the folder should be, as after a typing error in the path."""
    if "gguf" in words:
        pytest.importorskip("gguf")
    (tmp_path / "file").write_text("mine")
    names = {"first": runs[0], "DATA": tiny_data, "RECIPE": tiny_recipe}
    place = str(tmp_path / "file" / "place")
    before = contents(tmp_path)
    told = refused(*(names.get(word, word.replace("PLACE", place)) for word in words))
    assert place in told
    assert "Not a directory" in told
    assert contents(tmp_path) == before


def test_nothing_is_left_where_something_could_be_written(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("mine")
    for name in ("new", "new/deep/er", "there"):
        require_writable(tmp_path / name)
    assert [file.name for file in tmp_path.iterdir()] == ["there"]
    assert (tmp_path / "there").read_text() == "mine"
    for name in (
        "x" * 300,
        "x" * 250,
        "new/" + "x" * 300,
    ):  # with the letters added while the file is written
        with pytest.raises(ConfigError, match="File name too long"):
            require_writable(tmp_path / name)


def test_a_file_that_is_written_in_its_place_may_have_the_longest_name(tmp_path: Path) -> None:
    for letters in (240, 255):
        require_writable_file(tmp_path / ("x" * letters), "--json")
        require_writable_file(tmp_path / "new" / ("x" * letters), "--samples")
        with pytest.raises(ConfigError, match="File name too long"):
            require_writable(tmp_path / ("x" * letters))
    with pytest.raises(ConfigError, match="File name too long"):
        require_writable_file(tmp_path / ("x" * 256), "--json")


def test_a_link_to_a_file_that_is_not_there_yet_makes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], refused: Refused
) -> None:
    link = tmp_path / "link.json"
    link.symlink_to("target.json")
    require_writable_file(link, "--json")
    assert not (tmp_path / "target.json").exists()
    assert cli.main(["data", "list", "--json", str(link)]) == 0
    assert json.loads((tmp_path / "target.json").read_text())
    for name, target, problem in (
        ("away", "no/such/folder/x.json", "No such file or directory"),
        ("through", "target.json/x.json", "Not a directory"),
        ("loop", "loop", ""),
    ):
        (tmp_path / name).symlink_to(target)
        told = refused("data", "list", "--json", tmp_path / name)
        assert told.startswith(f"--json {tmp_path / name}: cannot be written")
        assert problem in told


def test_a_pipe_is_not_opened(tmp_path: Path) -> None:
    """Its reader would think that everything had been written, and without a reader it would never open."""
    os.mkfifo(tmp_path / "pipe")
    require_writable(tmp_path / "pipe")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_the_right_to_write_is_said(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ConfigError, match="Permission denied"):
        require_writable(tmp_path / "new")
