"""`conjoin report`; what is in the page is tested in tests/report."""

import json

import pytest
import typer

from conjoin.records import Record, write_json

RUN = {
    "experiment": "compare",
    "title": "Two tasks",
    "seeds": [0],
    "tasks": [{"name": "MNIST"}],
    "groups": [{"key": "g", "title": "both", "models": ["a"], "tasks": ["MNIST"]}],
    "rows": [{"key": "g: mean", "group": "g", "name": "mean"}],
}


@pytest.fixture
def folder(tmp_path):
    how = {"view": "row", "group": "g", "row": "mean"}
    record = Record("g: mean", "MNIST", "test", 0, "accuracy", 97.5, 100, how)
    (tmp_path / "run").mkdir()
    write_json(tmp_path / "run" / "results.json", [record], run=RUN)
    return tmp_path / "run"


def test_writes_the_page_and_says_where(run, folder):
    result = run("report", folder)
    page = folder / "report.html"
    assert result.stdout == f"wrote {page}\n"
    assert "97.5" in page.read_text(encoding="utf-8")
    assert sorted(path.name for path in folder.iterdir()) == ["report.html", "results.json"]
    page.write_text("old")
    run("report", folder)
    assert "97.5" in page.read_text(encoding="utf-8")


def test_several_runs_and_another_place(run, folder, tmp_path):
    out = tmp_path / "both.html"
    assert run("report", folder, folder, "-o", out).stdout == f"wrote {out}\n"
    assert "difference" in out.read_text(encoding="utf-8")
    assert [path.name for path in folder.iterdir()] == ["results.json"]


def test_figures(run, folder):
    lines = run("report", folder, "--figures").stdout.splitlines()
    assert lines[1:] == [f"wrote 3 files into {folder / 'figures'}"]
    assert sorted(path.name for path in (folder / "figures").iterdir()) == [
        "rows.pdf",
        "rows.png",
        "rows.svg",
    ]


def test_open_shows_the_page(run, folder, monkeypatch):
    opened = []
    monkeypatch.setattr(typer, "launch", opened.append)
    run("report", folder)
    assert opened == []
    run("report", folder, "--open")
    assert opened == [(folder / "report.html").resolve().as_uri()]


def test_what_cannot_be_used(run, folder, tmp_path):
    assert "is not the folder of a run" in run("report", tmp_path, code=1).stderr
    assert "name a file in it" in run("report", folder, "-o", tmp_path, code=2).stderr
    missing = run("report", folder, "-o", tmp_path / "no" / "a.html", code=2).stderr
    assert "there is no folder" in missing
    assert "Missing argument" in run("report", code=2).stderr
    document = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    del document["run"]["seeds"]
    (folder / "results.json").write_text(json.dumps(document), encoding="utf-8")
    assert "run.seeds" in run("report", folder, code=1).stderr
    assert [path.name for path in folder.iterdir()] == ["results.json"]
