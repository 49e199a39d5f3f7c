from pathlib import Path

import numpy as np
import pytest
from small_folder import DOCUMENTS, END, make_folder

from gptlab.data.load_tokenizer import load_tokenizer
from gptlab.data.manifest import Manifest
from gptlab.data.prepare.writer import ShardWriter
from gptlab.data.shards import read_shard


def test_shards_end_with_documents(tmp_path: Path):
    make_folder(tmp_path, shard_tokens=13)
    shards = Manifest.load(tmp_path).split("train")
    assert [shard.documents for shard in shards] == [2, 1, 1]
    assert [read_shard(tmp_path / shard.file).tolist() for shard in shards] == [
        DOCUMENTS[0] + DOCUMENTS[1],
        DOCUMENTS[2],
        DOCUMENTS[3],
    ]
    assert [shard.tokens for shard in shards] == [12, 2, 33]
    assert [shard.text_bytes for shard in shards] == [10, 1, 32]


def test_a_writer_that_fails_leaves_no_shard(tmp_path: Path):
    with (
        pytest.raises(IndexError),
        ShardWriter(tmp_path, "train", 100, load_tokenizer("bytes").token_bytes) as writer,
    ):
        writer.add(np.array([END, 300], np.uint16))  # begins the file, then fails at 300
    assert not list(tmp_path.iterdir())
