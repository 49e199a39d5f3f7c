import sysconfig
from pathlib import Path

import pytest

from gptlab.data.sources.python_docs import estimate_bytes, read_documents


@pytest.fixture
def library(tmp_path: Path) -> Path:
    def write(name: str, text: str) -> None:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    write("pydoc_data/topics.py", "topics = {'with': 'The with statement.\\n', 'if': 'The if statement.'}")
    write(
        "wrap.py",
        '"""Wrap text.\n\n    Indented.\n    """\nraise SystemExit("imported")\n'
        'class Wrapper:\n    """Wraps."""\n    def fill(self, width=70, *, tabs: bool = False):\n'
        '        """Fill a paragraph."""\n        def inner():\n            """Deep."""\n'
        'async def later():\n    """Later."""\n',
    )
    write("pack/__init__.py", '"""A package."""')
    write("pack/again.py", '"""A package."""\ndef f(x): "Only once."\n')
    write("pack/silent.py", "x = 1\n")
    write("test/test_wrap.py", '"""A test."""')
    write("site-packages/other.py", '"""Of the site."""')
    write("_sysconfigdata_x86.py", '"""Of this machine."""')
    return tmp_path


def test_topics_then_modules_each_text_once_nothing_imported(library: Path):
    assert list(read_documents(library)) == [
        "if\n\nThe if statement.\n",
        "with\n\nThe with statement.\n",
        "pack\n\nA package.\n",
        "pack.again\n\npack.again.f(x)\n\nOnly once.\n",
        "wrap\n\nWrap text.\n\nIndented.\n\nclass wrap.Wrapper\n\nWraps.\n\n"
        "wrap.Wrapper.fill(self, width=70, *, tabs: bool=False)\n\nFill a paragraph.\n\n"
        "wrap.Wrapper.fill.inner()\n\nDeep.\n\nwrap.later()\n\nLater.\n",
    ]


def test_this_pythons_own_documentation_is_there():
    library = Path(sysconfig.get_path("stdlib"))
    documents = list(read_documents(library))
    text_bytes = sum(len(document.encode()) for document in documents)
    assert text_bytes > 1_500_000
    assert len(documents) > 300
    assert len(documents) == len(set(documents))
    assert any(document.startswith("textwrap\n\nText wrapping and filling.") for document in documents)
    assert 0.7 < estimate_bytes(library) / text_bytes < 1.4
