"""The examples do what their texts say: each is run as a reader would, in an empty folder."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import torch
from ipykernel.kernelspec import write_kernel_spec

import conjoin
from conjoin.report.run_folder import Run, read_run
from conjoin.report.words import headline

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
NOTEBOOK = EXAMPLES / "two_networks.ipynb"

CLIENT = """
import sys
import nbformat
from nbclient import NotebookClient

source, target = sys.argv[1:]
notebook = nbformat.read(source, as_version=4)
NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
nbformat.write(notebook, target)
"""
"""In a process of its own: a client leaves sockets and event loops to the end of its process."""


@pytest.fixture
def run_python(tmp_path):
    """Run Python with arguments in the test's folder; give what it printed."""

    def run(*arguments, **variables):
        # A warning would be the reader's first impression of an example.
        settings = {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error", "NO_COLOR": "1"}
        inherited = {k: v for k, v in os.environ.items() if k not in ("FORCE_COLOR", "COLUMNS")}
        done = subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=tmp_path,
            env={**inherited, **settings, **variables},
            capture_output=True,
            encoding="utf-8",
            timeout=300,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


def accuracies(run: Run, row: str) -> dict[str, float]:
    """Give a row's accuracy on each task, seed 0."""
    return {
        record.task: record.value
        for record in run.view("row")
        if (record.how["row"], record.metric, record.split) == (row, "accuracy", "test")
        and record.seed == 0
    }


def half_way(run: Run) -> dict[str, float]:
    """Give the accuracy in the middle of the line between two networks, by task."""
    return {
        record.task: record.value
        for record in run.view("interpolation")
        if record.metric == "accuracy" and record.how["reestimated"] and record.how["t"] == 0.5
    }


def page_says(page: Path, sentence: str) -> bool:
    """Whether a sentence is in the text of a page."""
    text = re.sub(r"<[^>]*>", "", page.read_text(encoding="utf-8"))
    return " ".join(sentence.split()) in " ".join(text.split())


@pytest.mark.slow
def test_the_script(run_python, tmp_path):
    out = tmp_path / "run"
    printed = run_python(EXAMPLES / "two_networks.py", "--shared", "--seeds", 1, "--out", out)
    run = read_run(out)
    assert run.info.seeds == [0]
    assert [task.name for task in run.info.tasks if task.trained_on] == ["digits", "inverted"]
    assert not run.tasks["half inverted"].trained_on
    assert page_says(out / "report.html", headline(run))
    assert f"The page: {out / 'report.html'}" in printed
    # What is computed by hand is what the comparison finds.
    shown = re.findall(r"^(mean|re-estimated) +on (.+?) +([\d.]+) %$", printed, re.MULTILINE)
    by_hand = {(model, task): value for model, task, value in shown}
    for task, value in accuracies(run, "mean").items():
        assert float(by_hand["mean", task]) == pytest.approx(value, abs=0.051)
    for task, value in accuracies(run, "mean + re-estimated statistics").items():
        # The comparison's statistics are of other batches.
        assert float(by_hand["re-estimated", task]) == pytest.approx(value, abs=2)
    assert {record.how["start"] for record in run.view("transfer")} == {
        "digits alone",
        "inverted alone",
        "mean + re-estimated statistics",
        "a new network, never trained",
    }


@pytest.mark.slow
def test_the_project_of_ones_own(run_python, tmp_path):
    for file in (EXAMPLES / "own_project").glob("*.py"):
        shutil.copy(file, tmp_path)
    commands = re.findall(
        r"^\$ (.*)$", (EXAMPLES / "own_project" / "README.md").read_text("utf-8"), re.MULTILINE
    )
    assert commands[0].startswith("pip install")
    assert commands[1] == "python train.py"
    assert commands[2].startswith("conjoin compare ")
    assert len(commands) == 3

    run_python("train.py")
    printed = run_python("-m", *commands[2].split())
    run = read_run(tmp_path / "run")
    page = tmp_path / "run" / "report.html"
    assert page_says(page, headline(run))
    assert "The page: run/report.html" in printed.replace("\\", "/")
    assert run.info.specialists == {"digits": "models: a alone", "inverted": "models: b alone"}
    assert min(accuracies(run, "ensemble of outputs")[t] for t in ("digits", "inverted")) > 80

    paths = [tmp_path / "a.pth", tmp_path / "b.pth"]
    expected = conjoin.merge(paths)
    merged = conjoin.open_checkpoint(
        tmp_path / "run" / "checkpoints" / "seed-0" / "models-mean.safetensors"
    )
    assert list(merged) == list(expected)
    assert all(torch.equal(merged[name], expected[name]) for name in expected)


def test_nothing_of_conjoin_is_in_the_project_of_ones_own():
    for file in (EXAMPLES / "own_project").glob("*.py"):
        assert not re.search(r"^\s*(import|from) conjoin", file.read_text("utf-8"), re.MULTILINE)


def test_the_notebook_is_stored_without_outputs():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code
    assert all(not cell.outputs and cell.execution_count is None for cell in code)


@pytest.mark.slow
def test_the_notebook(run_python, tmp_path):
    # The kernel is this Python, whatever kernels and settings the user of the machine has.
    kernels = tmp_path / "jupyter" / "kernels"
    write_kernel_spec(kernels / "python3")
    hidden = {
        name: str(tmp_path / name.lower())
        for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
    }
    done = tmp_path / "done.ipynb"
    # Warnings of Jupyter's own packages are not ours; those of cells are looked for below.
    hidden |= {"JUPYTER_PATH": str(kernels.parent), "PYTHONWARNINGS": "default"}
    run_python("-c", CLIENT, NOTEBOOK, done, **hidden)

    outputs = {
        cell.id: cell.outputs
        for cell in nbformat.read(done, as_version=4).cells
        if cell.cell_type == "code"
    }
    said = [out for found in outputs.values() for out in found if out.output_type == "stream"]
    assert [out.text for out in said if out.name == "stderr"] == []

    own, shared = (read_run(tmp_path / "runs" / "notebook" / name) for name in ("own", "shared"))
    for run, cell in ((own, "own"), (shared, "shared")):
        assert outputs[cell][0].text.strip() == headline(run)
        assert "mean + re-estimated statistics" in outputs[cell][1].data["text/markdown"]
    _check_claims(own, shared)

    for cell, fields in {"curve": "t", "curves": "t", "transfer": "labels"}.items():
        (chart,) = outputs[cell]
        assert f'"{fields}"' in chart.data["text/html"]
    page = tmp_path / outputs["report"][0].text.strip()
    assert all(page_says(page, one.info.title) for one in (own, shared))


def _check_claims(own: Run, shared: Run) -> None:
    """What the notebook says in words."""
    tasks = ("digits", "inverted")
    for run in (own, shared):
        first, second = (accuracies(run, f"{name} alone") for name in run.info.groups[0].models)
        for alone, task, other in ((first, *tasks), (second, *reversed(tasks))):
            assert alone[task] > 90
            assert alone[other] < alone[task] / 2
        assert min(accuracies(run, "ensemble of outputs")[task] for task in tasks) > 90
        repaired = accuracies(run, "mean + re-estimated statistics")
        assert repaired["digits"] < first["digits"]
        assert repaired["inverted"] < second["inverted"]
        if run is own:
            for task in tasks:
                straight = (first[task] + second[task]) / 2
                assert half_way(own)[task] < straight - 10
                assert max(repaired[task], accuracies(own, "mean")[task]) < 50
        else:
            assert all(repaired[task] > 60 for task in tasks)
    assert all(half_way(shared)[task] > half_way(own)[task] + 20 for task in tasks)


def test_links_of_the_examples_lead_somewhere():
    notebook = json.loads(NOTEBOOK.read_text("utf-8"))
    texts = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "markdown"]
    pages = {page: page.read_text("utf-8") for page in EXAMPLES.rglob("*.md")}
    for page, text in {**pages, NOTEBOOK: "\n".join(texts)}.items():
        targets = re.findall(r"\]\(([^)\s]+)\)", text)
        assert targets
        for target in targets:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
