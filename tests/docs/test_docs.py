"""The pages say what is there: links lead somewhere, code is run, versions and names agree."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

import conjoin

ROOT = Path(__file__).parents[2]
FOLDERS = ("*.md", "docs/**/*.md", "benchmarks/*.md", "examples/**/*.md")
PAGES = sorted(page for pattern in FOLDERS for page in ROOT.glob(pattern))
RUN = [page for page in PAGES if page.is_relative_to(ROOT / "docs")]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


def _without_code(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def _anchors(page: Path) -> set[str]:
    """The anchors that GitHub makes of headings."""
    text = _without_code(page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in headings}


def test_there_are_pages():
    assert {page.name for page in PAGES} >= {"design.md", "merging.md", "what-you-tried.md"}


@pages
def test_links_within_the_project_lead_somewhere(page: Path):
    text = _without_code(page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path) if path else page
        assert found.exists(), f"{page.name} links to {target}, which does not exist"
        if anchor and found.suffix == ".md":
            assert anchor in _anchors(found), f"{page.name} links to {target}: no such heading"


@pytest.mark.parametrize("page", RUN, ids=lambda page: page.name)
def test_python_in_the_docs_is_run(page: Path):
    text = page.read_text(encoding="utf-8")
    for block in re.findall(r"^```python\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL):
        assert block.startswith(">>> "), f"a block of {page.name} is no doctest:\n{block}"
        assert block.endswith("\n\n"), f"doctest would take the fence for output, in:\n{block}"


def test_the_design_lists_every_module_and_none_that_is_not_there():
    text = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    existing, planned = text.split("## Layout: what is planned")[0], text
    planned = text.split("## Layout: what is planned")[1].split("## Contracts")[0]
    row = r"^\|(?: \d \|)? `([\w.]+)/?` \|"
    listed = set(re.findall(row, existing, flags=re.MULTILINE))
    home = Path(str(conjoin.__file__)).parent
    found = {
        path.name
        for path in home.iterdir()
        if not path.name.startswith("_")
        and (path.suffix == ".py" or (path / "__init__.py").exists())
    }
    assert listed == found
    assert found.isdisjoint(re.findall(row, planned, flags=re.MULTILINE))


def test_one_version_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    latest = re.findall(r"^## \[(.*?)\]", changelog, flags=re.MULTILINE)[0]
    assert conjoin.__version__ == PROJECT["version"] == str(citation["version"])
    assert latest in (conjoin.__version__, "Unreleased")


def test_the_citation_has_what_the_format_requires():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0"
    assert citation["license"] == PROJECT["license"]
    assert all(citation[key] for key in ("message", "title", "type"))
    assert [author["name"] for author in citation["authors"]] == [
        author["name"] for author in PROJECT["authors"]
    ]


def test_constraints_are_exact_and_name_dependencies():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", pin) for pin in pins)
    extras = PROJECT["optional-dependencies"]
    wanted = PROJECT["dependencies"] + extras["digits"] + extras["report"] + extras["dev"]
    names = {re.split(r"[^\w.-]", requirement)[0] for requirement in wanted}
    assert {pin.split("==")[0] for pin in pins} <= names


def test_every_target_of_the_makefile_is_in_its_help():
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = re.findall(r"^\.PHONY: (.*)$", text, flags=re.MULTILINE)[0].split()
    described = re.findall(r"^([a-z]+):.*## \S", text, flags=re.MULTILINE)
    assert phony == described
