import subprocess
import sys
from pathlib import Path

import pytest

from conjoin.errors import DataError
from conjoin.experiments.digits import sources
from conjoin.experiments.digits.sources import SOURCES, Mnist, open_source


@pytest.mark.parametrize("kind", SOURCES, ids=[kind.word for kind in SOURCES])
def test_every_spelling_opens_its_kind(kind: sources.SourceKind) -> None:
    found = open_source(kind.spelling.replace("FOLDER", "a:b"))
    assert isinstance(found, kind.make)
    if kind.needs_folder:
        assert found.folder == Path("a:b")


def test_case_of_the_word_does_not_matter(tmp_path: Path) -> None:
    assert open_source(f"MNIST:{tmp_path}") == Mnist(tmp_path)


def test_home_is_expanded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert open_source("mnist:~/data") == Mnist(tmp_path / "data")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("minst:data", "did you mean mnist:FOLDER"),
        ("stret", "did you mean street"),
        ("", "There are: handwritten"),
        ("zzz", "'zzz'; There are: "),
        ("mnist", "needs a folder; write mnist:FOLDER, not 'mnist'"),
        ("svhn:", "needs a folder; write svhn:FOLDER"),
        ("handwritten:data", "takes no folder"),
    ],
)
def test_what_cannot_be_opened(spec: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_source(spec)


def test_words_differ() -> None:
    assert len({kind.word for kind in SOURCES}) == len(SOURCES)


def test_all_names_are_exported_and_exist() -> None:
    assert sorted(sources.__all__) == sorted(set(sources.__all__))
    assert all(hasattr(sources, name) for name in sources.__all__)


def test_importing_does_not_import_the_extras() -> None:
    code = (
        "import sys, conjoin.experiments.digits.sources\n"
        "extras = {'PIL', 'sklearn', 'matplotlib', 'altair', 'pooch'} & set(sys.modules)\n"
        "sys.exit(' '.join(sorted(extras)) or 0)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
