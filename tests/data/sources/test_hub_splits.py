import contextlib
from pathlib import Path
from typing import Any

import pytest

from gptlab.data.sources.hub_splits import Choice, choose, to_train_on
from gptlab.errors import DataError

FILES = [
    "README.md",
    "all.parquet",
    "data/train-00000-of-00002.parquet",
    "data/train-00001-of-00002.parquet",
    "data/validation-00000-of-00001.parquet",
    "data/CC-MAIN-2024-10/000_00000.parquet",
    "data/CC-MAIN-2024-10/deep/000_00001.parquet",
    "sample/10BT/000_00000.parquet",
    "sample/10BT/001_00000.parquet",
    "sample/100BT/000_00000.parquet",
    "global-shard_01_of_10/local-shard_0_of_10/shard_00000000_processed.jsonl.zst",
    "odd [name]/a+b.txt",
]
PATTERNS = [
    "data/*",
    "data/*/*",
    "data/**",
    "**",
    "*",
    "**/*.parquet",
    "sample/10BT/*",
    "sample/1*BT/00[12]_*",
    "sample/1*BT/00[!12]_*",
    "data/train-?????-of-00002.parquet",
    "data/train-00000-of-00002.parquet",
    "./data/train-*",
    "**/shard_*.jsonl.zst",
    "nothing/*",
]
CARD: dict[str, Any] = {
    "configs": [
        {"config_name": "default", "data_files": [{"split": "train", "path": "data/*/*"}]},
        {"config_name": "sample-10BT", "data_files": [{"split": "train", "path": "sample/10BT/*"}]},
        {
            "config_name": "splits",
            "data_files": [
                {"split": "train", "path": ["data/train-*", "all.parquet"]},
                {"split": "validation", "path": "data/validation-*"},
            ],
        },
        {"config_name": "word", "data_files": "all.parquet"},
        {"config_name": "words", "data_files": ["all.parquet", "sample/*/*"]},
        {"config_name": "mapping", "data_files": {"train": "all.parquet", "test": "data/*"}},
        {"config_name": "only test", "data_files": [{"split": "test", "path": "sample/*/*"}]},
        {
            "config_name": "no train",
            "data_files": [{"split": split, "path": "x"} for split in ("test", "validation")],
        },
        {"config_name": "folder", "data_dir": "data"},
    ]
}


def chosen(choice: Choice) -> list[str]:
    return [path for path in FILES if choice.matches(path)]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns_mean_what_they_mean_to_datasets(pattern: str, tree: Path):
    data_files = pytest.importorskip("datasets.data_files")
    try:
        expected = data_files.resolve_pattern(pattern, str(tree))
    except FileNotFoundError:
        expected = []
    expected = sorted(Path(path).relative_to(tree).as_posix() for path in expected)
    # The datasets library leaves out READMEs, which gptlab does not read anyway.
    found = [path for path in chosen(choose({}, pattern, "hf:a/b")) if path != "README.md"]
    assert sorted(found) == expected


@pytest.mark.parametrize(
    "names",
    [
        ["data/train-0.parquet", "data/validation-0.parquet", "data/test-0.parquet"],
        ["train.jsonl", "dev.jsonl"],
        ["train/a.parquet", "train/b.parquet", "valid/a.parquet"],
        ["training_set.txt", "eval_set.txt"],
        ["a.parquet", "b/c.parquet"],
        ["trainer.txt", "contest.txt"],
        ["val.jsonl.gz", "my-train.jsonl.gz"],
    ],
)
def test_names_tell_splits_as_they_do_to_datasets(names: list[str], tmp_path: Path):
    data_files = pytest.importorskip("datasets.data_files")
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    expected: list[str] = []
    for pattern in data_files.get_data_patterns(str(tmp_path))["train"]:
        with contextlib.suppress(FileNotFoundError):
            expected += data_files.resolve_pattern(pattern, str(tmp_path))
    assert to_train_on(names)[0] == [name for name in names if str(tmp_path / name) in expected]


def test_what_is_not_for_training_is_told():
    assert to_train_on(["train/a", "dev/a", "x"]) == (["train/a"], ("validation",))
    assert to_train_on(["a", "test/b", "val/c"]) == (["a"], ("test", "validation"))
    assert to_train_on(["test/b"]) == ([], ("test",))


@pytest.mark.parametrize(
    ("wanted", "label", "folder", "files"),
    [
        ("", "configuration default, split train", "data", ["data/CC-MAIN-2024-10/000_00000.parquet"]),
        ("sample-10BT", "configuration sample-10BT, split train", "sample/10BT", FILES[7:9]),
        ("splits", "configuration splits, split train", "", FILES[1:4]),
        ("word", "configuration word, split train", "", FILES[1:2]),
        ("words", "configuration words, split train", "", [FILES[1], *FILES[7:10]]),
        ("mapping", "configuration mapping, split train", "", FILES[1:2]),
        ("only test", "configuration only test, split test", "sample", FILES[7:10]),
        ("folder", "configuration folder", "data", FILES[2:7]),
        ("sample/10BT", '"sample/10BT"', "sample", FILES[7:9]),
        ("sample/10BT/", '"sample/10BT/"', "sample", FILES[7:9]),
        ("sample/*/000*", '"sample/*/000*"', "sample", [FILES[7], FILES[9]]),
        ("all.parquet", '"all.parquet"', "", FILES[1:2]),
        ("odd [name]/a+b.txt", '"odd [name]/a+b.txt"', "", []),
        ("**", '"**"', "", FILES),
    ],
)
def test_a_configuration_or_a_path_chooses(wanted: str, label: str, folder: str, files: list[str]):
    choice = choose(CARD, wanted, "hf:a/b")
    assert (choice.label, choice.folder, chosen(choice)) == (label, folder, files)


def test_splits_that_are_left_out_are_told():
    assert choose(CARD, "splits", "hf:a/b").left_out == ("validation",)
    assert choose(CARD, "mapping", "hf:a/b").left_out == ("test",)


def test_the_default_configuration():
    configs = CARD["configs"]
    assert choose({"configs": configs[1:2]}, "", "hf:a/b").label == "configuration sample-10BT, split train"
    marked = [*configs[1:4], {**configs[4], "default": True}]
    assert choose({"configs": marked}, "", "hf:a/b").label == "configuration words, split train"
    with pytest.raises(
        DataError, match=r"hf:a/b: has the configurations sample-10BT, splits; choose one as hf"
    ):
        choose({"configs": configs[1:3]}, "", "hf:a/b")
    many = [{"config_name": f"c{number}", "data_files": "x"} for number in range(100)]
    with pytest.raises(DataError, match=r"configurations c0, .*, c11 and 88 more; choose"):
        choose({"configs": many}, "", "hf:a/b")
    with pytest.raises(
        DataError, match="configuration no train has the splits test, validation but none to train"
    ):
        choose(CARD, "no train", "hf:a/b")


@pytest.mark.parametrize("card", [{}, {"configs": None}, {"configs": "odd"}, {"configs": ["odd", {"x": 1}]}])
def test_without_configurations_all_files_are_looked_at(card: dict[str, Any]):
    choice = choose(card, "", "hf:a/b")
    assert (choice.label, choice.by_name, chosen(choice)) == ("all files", True, FILES)
