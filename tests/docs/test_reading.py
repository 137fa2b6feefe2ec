"""The reading list and its BibTeX name the same papers, once each, in the same words."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "reading.md").read_text(encoding="utf-8")
BIBTEX = (DOCS / "reading.bib").read_text(encoding="utf-8")
KEY = r"[a-z]+\d{4}"
STATUS = ("Now: ", "Measured: ", "Planned: ", "Not planned: ")


def _entries(bibtex: str) -> list[tuple[str, dict[str, str]]]:
    """Read ``@kind{key, field = {value}, ...}`` with one field a line and the end on its own."""
    blocks = re.findall(r"^@\w+\{([^,\s]+),\n(.*?)^\}$", bibtex, flags=re.MULTILINE | re.DOTALL)
    return [
        (key, dict(re.findall(r"^  (\w+) = \{(.*)\},$", body, flags=re.MULTILINE)))
        for key, body in blocks
    ]


ENTRIES = _entries(BIBTEX)
FIELDS = dict(ENTRIES)
PAPERS = re.findall(
    rf"^\*\*\[({KEY})\]\((\S+)\)\*\*\s[^*]*:\s\*([^*]*)\*\.?\s(.*?)\n\n- (.*?)\n- (.*?)\n\n",
    PAGE,
    flags=re.MULTILINE | re.DOTALL,
)

entries = pytest.mark.parametrize(("key", "fields"), ENTRIES, ids=[key for key, _ in ENTRIES])
papers = pytest.mark.parametrize("paper", PAPERS, ids=[paper[0] for paper in PAPERS])


def _words(text: str) -> str:
    """The title without what differs between Markdown and BibTeX: braces, line ends, case."""
    return " ".join(re.sub(r"[{}\\]", "", text).split()).lower()


def _unique(values: list[str]) -> bool:
    return len(values) == len(set(values))


def test_nothing_is_skipped_when_reading():
    assert len(ENTRIES) == BIBTEX.count("@") > 0
    assert len(PAPERS) == PAGE.count("\n**[") > 0
    assert sum(map(len, FIELDS.values())) == len(re.findall(r" = ", BIBTEX))


def test_page_and_bibtex_have_the_same_papers_in_the_same_order():
    assert [paper[0] for paper in PAPERS] == [key for key, _ in ENTRIES]


def test_no_paper_is_there_twice():
    assert _unique([key for key, _ in ENTRIES])
    assert _unique([_words(fields["title"]) for fields in FIELDS.values()])
    assert _unique([fields["url"] for fields in FIELDS.values()])


def test_keys_that_the_page_cites_exist_and_lead_to_the_paper():
    for key, target in re.findall(rf"\[({KEY})\]\((\S+?)\)", PAGE):
        assert FIELDS[key]["url"] == target


def test_no_key_is_mentioned_without_its_link():
    linked = re.sub(rf"\[{KEY}\]\(\S+?\)", "", PAGE)
    assert not [key for key in FIELDS if key in linked]


@entries
def test_an_entry_has_what_a_citation_needs(key: str, fields: dict[str, str]):
    assert fields.keys() >= {"author", "title", "year", "url"}
    assert all(value.strip() for value in fields.values())
    assert all(value.count("{") == value.count("}") for value in fields.values())
    assert re.fullmatch(KEY, key)
    assert key.endswith(fields["year"])
    first = re.sub(r"[^a-z]", "", fields["author"].split(",")[0].split()[-1].lower())
    assert key.removesuffix(fields["year"]).endswith(first)
    for author in fields["author"].split(" and "):
        assert re.fullmatch(r"[^,]+, [^,]+", author), author


@entries
def test_links_are_to_arxiv_or_a_doi(key: str, fields: dict[str, str]):
    if "eprint" not in fields:
        assert re.fullmatch(r"https://doi\.org/10\.\d{4,}/\S+", fields["url"])
        return
    assert fields["archiveprefix"] == "arXiv"
    assert fields["url"] == f"https://arxiv.org/abs/{fields['eprint']}"
    found = re.fullmatch(r"(\d\d)(0[1-9]|1[0-2])\.(\d{4,5})", fields["eprint"])
    assert found, fields["eprint"]
    year, month, number = found.groups()
    assert len(number) == (5 if (year, month) >= ("15", "01") else 4)  # arXiv's rule since 2015
    assert 2000 + int(year) <= int(fields["year"])


@papers
def test_a_paper_says_what_it_shows_and_what_conjoin_has(paper: tuple[str, ...]):
    key, target, title, venue, shows, ours = paper
    assert target == FIELDS[key]["url"]
    assert _words(title) == _words(FIELDS[key]["title"])
    assert FIELDS[key]["year"] in venue
    assert shows.startswith("Shows: ")
    assert ours.startswith(STATUS)
    assert "\n- " not in shows + ours
