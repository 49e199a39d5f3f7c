from collections.abc import Callable
from pathlib import Path

import llmc
import numpy as np
import pytest
from small_folder import END, make_folder, overwrite, replace

from gptlab.data.adopt import adopt
from gptlab.data.load_tokenizer import load_tokenizer
from gptlab.data.manifest import MANIFEST, Manifest
from gptlab.data.train_tokenizer import train_tokenizer
from gptlab.data.verify import verify
from gptlab.errors import DataError

STREAM = [[END, *b"one"], [END, *b"and two"], [END, *b"the third, longer than the rest"], [END, *b"4"]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five shards as llm.c cuts them: the first validates, the others begin inside a document."""
    llmc.write_fineweb(tmp_path, "fineweb", STREAM, 10)
    return tmp_path


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in sorted(folder.glob("*.bin"))}


def test_the_shards_stay_as_they_are_and_verify(folder: Path):
    before = contents(folder)
    facts = adopt(folder, tokenizer="bytes")
    assert contents(folder) == before
    assert verify(folder).items() <= facts.items()
    assert facts["already_adopted"] is False
    assert facts["validation"] == "the files with val in their name"
    shards = Manifest.load(folder).shards
    assert [shard.file for shard in shards] == [f"fineweb_train_{i:06d}.bin" for i in (1, 2, 3, 4)] + [
        "fineweb_val_000000.bin"
    ]
    assert [(shard.tokens, shard.documents, shard.text_bytes) for shard in shards] == [
        (10, 1, 9),
        (10, 0, 10),
        (10, 0, 10),
        (6, 1, 5),
        (10, 2, 8),
    ]


NAMES = [
    (["fineweb_train_000001.bin", "fineweb_val_000000.bin"], ["fineweb_val_000000.bin"]),
    (["tiny_shakespeare_train.bin", "tiny_shakespeare_val.bin"], ["tiny_shakespeare_val.bin"]),
    (["TinyStories_train.bin", "TinyStories_val.bin"], ["TinyStories_val.bin"]),
    (["b-Validation-0.bin", "c-valid.bin", "train.bin"], ["b-Validation-0.bin", "c-valid.bin"]),
    (["medieval_000000.bin", "medieval_000001.bin", "medieval_000002.bin"], ["medieval_000000.bin"]),
]


@pytest.mark.parametrize(("names", "validate"), NAMES)
def test_a_split_is_told_by_its_name_or_is_the_first_shard(
    names: list[str], validate: list[str], tmp_path: Path
):
    for name in names:
        llmc.write(tmp_path / name, [END, *b"text"])
    facts = adopt(tmp_path, tokenizer="bytes")
    assert [shard.file for shard in Manifest.load(tmp_path).split("val")] == validate
    first = "the first file (medieval_000000.bin)"
    assert facts["validation"] == (first if "medieval" in names[0] else "the files with val in their name")


def test_files_that_were_named_validate(folder: Path, monkeypatch: pytest.MonkeyPatch):
    adopt(
        folder, tokenizer="bytes", val=[Path("fineweb_train_000002.bin"), folder / "fineweb_train_000004.bin"]
    )
    held_out = [shard.file for shard in Manifest.load(folder).split("val")]
    assert held_out == ["fineweb_train_000002.bin", "fineweb_train_000004.bin"]


def test_adopting_again_says_that_it_is_done(folder: Path):
    facts = adopt(folder, tokenizer="bytes")
    manifest = (folder / MANIFEST).read_bytes()
    assert adopt(folder, tokenizer="bytes") == facts | {"already_adopted": True}
    assert (folder / MANIFEST).read_bytes() == manifest


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (
            lambda folder: llmc.write(folder / "fineweb_train_000005.bin", b"x"),
            "fineweb_train_000005.bin is new",
        ),
        (lambda folder: (folder / "fineweb_train_000002.bin").unlink(), "fineweb_train_000002.bin is gone"),
        (
            lambda folder: overwrite(3, 7)(folder / "fineweb_train_000001.bin"),
            "fineweb_train_000001.bin has changed",
        ),
        (
            lambda folder: (folder / "fineweb_train_000004.bin").rename(folder / "fineweb_val_000004.bin"),
            r"fineweb_train_000004.bin is gone; fineweb_val_000004.bin is new",
        ),
    ],
)
def test_what_differs_from_the_adopted_folder_is_named(
    change: Callable[[Path], object], difference: str, folder: Path
):
    adopt(folder, tokenizer="bytes")
    change(folder)
    with pytest.raises(
        DataError, match=f"is already adopted, but {difference}; adopt it as before, or delete"
    ):
        adopt(folder, tokenizer="bytes")
    (folder / MANIFEST).unlink()
    assert adopt(folder, tokenizer="bytes")["already_adopted"] is False


def test_other_splits_and_tokenizers_are_named(folder: Path, tmp_path_factory: pytest.TempPathFactory):
    adopt(folder, tokenizer="bytes")
    file = tmp_path_factory.mktemp("bpe") / "bpe.json"
    train_tokenizer(["a b c"], 300).save(str(file))
    with pytest.raises(DataError, match=r"tokenizer was bytes \([0-9a-f]{12}\), is now tokenizer.json \("):
        adopt(folder, tokenizer=file)
    with pytest.raises(
        DataError, match=r"_000001.bin was for train, is now for val; .*_val_.* is now for train"
    ):
        adopt(folder, tokenizer="bytes", val=[Path("fineweb_train_000001.bin")])


def test_a_tokenizer_from_a_file_is_kept_beside_the_shards(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
):
    file = tmp_path_factory.mktemp("bpe") / "bpe.json"
    train_tokenizer(["a b c"], 300).save(str(file))
    adopt(folder, tokenizer=file)
    assert Manifest.load(folder).load_tokenizer(folder).hash == load_tokenizer(file).hash
    verify(folder)


FOREIGN = {
    "truncated": (
        lambda path: path.write_bytes(path.read_bytes()[:-2]),
        "header says 10 tokens, file holds 9; copy or download it again",
    ),
    "llama 3's": (replace(llmc.header(1, 20240801, 7) + b"1234"), "20240801, .* uint32 tokens for Llama 3"),
    "evaluation items": (replace(llmc.header(1, 20240522, 1)), "llm.c's evaluation items, not text; move"),
    "nanoGPT's": (
        lambda path: np.arange(600, dtype=np.uint16).tofile(path),
        "if it holds bare tokens, as nanoGPT writes them, add a header with write_shard of gptlab.data.shards",
    ),
    "foreign tokens": (
        overwrite(4, 50_256),
        "token 50256 at position 4 is outside the vocabulary of 257; .* choose another --tokenizer",
    ),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_what_is_no_shard_is_named_with_the_remedy(name: str, folder: Path):
    damage, complaint = FOREIGN[name]
    damage(folder / "fineweb_train_000003.bin")
    with pytest.raises(DataError, match=rf"shard .*fineweb_train_000003\.bin: .*{complaint}") as error:
        adopt(folder, tokenizer="bytes")
    assert "\n" not in str(error.value)
    assert not (folder / MANIFEST).exists()


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda folder: folder.rmdir(), "no such folder"),
        (lambda folder: None, r"holds no \.bin files"),
        (
            lambda folder: np.save(folder / "edufineweb_train_000001.npy", np.arange(9, dtype=np.uint16)),
            "numpy array, as build-nanogpt writes; make it a shard with write_shard of gptlab.data.shards",
        ),
        (lambda folder: llmc.write(folder / "a.bin", b"x"), "a.bin: would all validate"),
        (lambda folder: make_folder(folder), 'was made by "gptlab data prepare" and has a manifest'),
    ],
)
def test_a_folder_that_cannot_be_adopted(make: Callable[[Path], object], complaint: str, tmp_path: Path):
    (tmp_path / "a").mkdir()
    make(tmp_path / "a")
    with pytest.raises(DataError, match=complaint):
        adopt(tmp_path / "a", tokenizer="bytes")


def test_a_validating_file_must_lie_in_the_folder(folder: Path, tmp_path_factory: pytest.TempPathFactory):
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "fineweb_val_000000.bin"
    llmc.write(elsewhere, b"x")
    for val in (elsewhere, Path("nothing.bin"), folder):
        with pytest.raises(DataError, match=rf"--val {val}: is not a file of"):
            adopt(folder, tokenizer="bytes", val=[val])


def test_damage_after_adoption_is_told_with_its_own_remedy(folder: Path):
    adopt(folder, tokenizer="bytes")
    path = folder / "fineweb_train_000003.bin"
    good = path.read_bytes()
    for damage in (overwrite(2, 9), overwrite(2, 300), lambda path: path.write_bytes(good[:-2]), Path.unlink):
        damage(path)
        with pytest.raises(DataError, match=r"put the original back, or delete manifest\.json and adopt"):
            verify(folder)
        path.write_bytes(good)
    verify(folder)
