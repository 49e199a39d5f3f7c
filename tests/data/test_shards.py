from pathlib import Path

import llmc
import numpy as np
import numpy.typing as npt
import pytest
from small_folder import END, make_folder, replace

from gptlab.data.shards import TOKEN, documents, read_shard, write_shard
from gptlab.data.verify import verify
from gptlab.errors import DataError
from gptlab.storage import whole_file


def test_the_bytes_are_those_llmc_writes(tmp_path: Path):
    tokens = [50256, 0, 1, 65_535, 50256, 7]
    write_shard(tmp_path / "ours.bin", tokens)
    llmc.write(tmp_path / "theirs.bin", tokens)
    assert (tmp_path / "ours.bin").read_bytes() == (tmp_path / "theirs.bin").read_bytes()
    read = read_shard(tmp_path / "theirs.bin")
    assert isinstance(read.base, np.memmap)
    assert read.tolist() == tokens


@pytest.mark.parametrize(
    ("tokens", "complaint"),
    [
        ([], "cannot hold 0 tokens; a shard holds 1 to 2,147,483,647"),
        (np.broadcast_to(0, 2**31), "cannot hold 2,147,483,648 tokens"),
        ([-1], "tokens must lie between 0 and 65,535"),
        ([65_536], "tokens must lie between 0 and 65,535"),
    ],
)
def test_tokens_that_do_not_fit_are_not_written(tokens: npt.ArrayLike, complaint: str, tmp_path: Path):
    with pytest.raises(DataError, match=rf"a\.bin: {complaint}"):
        write_shard(tmp_path / "a.bin", tokens)
    assert not list(tmp_path.iterdir())


def test_a_file_written_aside_appears_whole_or_not_at_all(tmp_path: Path):
    path = tmp_path / "a"
    with whole_file(path) as file:
        file.write(b"first")
        assert not path.exists()
    with pytest.raises(TypeError), whole_file(path) as file:
        file.writelines([b"second", None])
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]


DAMAGE = {
    "missing": (Path.unlink, "is missing; run"),
    "empty": (replace(b""), "the file is empty"),
    "cut in the header": (
        lambda path: path.write_bytes(path.read_bytes()[:14]),
        "has 14 bytes, less than a header of 1,024",
    ),
    "no tokens": (replace(llmc.header(0, 20240520, 1)), "holds no tokens"),
    "truncated": (
        lambda path: path.write_bytes(path.read_bytes()[:-4]),
        'header says 12 tokens, file holds 10; run "gptlab data prepare" again',
    ),
    "half a token": (
        lambda path: path.write_bytes(path.read_bytes()[:-3]),
        "header says 12 tokens, file holds 10 and a half",
    ),
    "foreign": (replace(b"P" * 5000), "begins with magic 1347440720, version 1347440720.* as nanoGPT"),
    "two bytes": (replace(b"12"), "begins with magic 12849, version 0"),
    "llama 3's": (
        replace(llmc.header(1, 20240801, 7) + b"1234"),
        "begins with magic 20240801, version 7.* uint32 tokens for Llama 3",
    ),
    "evaluation": (
        replace(llmc.header(1, 20240522, 1) + b"12"),
        "begins with magic 20240522.*, not text; move",
    ),
    "numpy's": (
        lambda path: (np.save(path.with_suffix(".npy"), [1]), path.with_suffix(".npy").rename(path)),
        "begins with magic 1297436307.* numpy array",
    ),
    "another version": (
        replace(llmc.header(1, 20240520, 2) + b"12"),
        "begins with .*, version 2.* newer llm.c",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_shard_is_refused_by_reader_and_verify(damage: str, tmp_path: Path):
    path = make_folder(tmp_path) / "train_000000.bin"
    damaged, complaint = DAMAGE[damage]
    damaged(path)
    for reader in (lambda: read_shard(path), lambda: verify(tmp_path)):
        with pytest.raises(DataError, match=rf"shard .*train_000000\.bin: {complaint}") as error:
            reader()
        assert "\n" not in str(error.value)


def test_a_header_is_given_as_the_errors_advise(tmp_path: Path):
    """One line turns the files of nanoGPT and build-nanogpt into shards."""
    tokens = np.array([50256, 1, 2], np.uint16)
    tokens.tofile(tmp_path / "train.bin")
    np.save(tmp_path / "train.npy", tokens)
    write_shard(tmp_path / "a.bin", np.fromfile(tmp_path / "train.bin", "uint16"))
    write_shard(tmp_path / "b.bin", np.load(tmp_path / "train.npy"))
    assert read_shard(tmp_path / "a.bin").tolist() == read_shard(tmp_path / "b.bin").tolist() == [50256, 1, 2]


@pytest.mark.parametrize("chunk", [1, 2, 3, 1000])
def test_documents_of_a_range(chunk: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("gptlab.data.shards._SEARCH_TOKENS", chunk)
    for tokens in ([END, 1, END, END, 2, 3], [1, 2, END, 3], [1], [END]):
        shard = np.array(tokens, TOKEN)
        begins = [at for at, token in enumerate(tokens) if at == 0 or token == END]
        whole = list(zip(begins, [*begins[1:], len(tokens)], strict=True))
        assert list(documents(shard, END)) == whole
        for start in range(len(tokens)):
            for stop in range(start + 1, len(tokens) + 1):
                assert list(documents(shard, END, start, stop)) == [
                    (begin, end) for begin, end in whole if start <= begin < stop
                ]
