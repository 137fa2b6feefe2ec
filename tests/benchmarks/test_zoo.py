"""The zoo's benchmark sees what is wrong, and goes on after what fails."""

import json
import signal
import sys
from pathlib import Path

import pytest
import torch

from conjoin.errors import TraceError
from conjoin.symmetry import finding, solving
from conjoin.symmetry.proof import Proof

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def zoo(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    threads = torch.get_num_threads()
    import zoo

    yield zoo
    torch.set_num_threads(threads)
    for name in [n for n in sys.modules if n == "zoo" or n.startswith("zoo_models")]:
        del sys.modules[name]


def test_a_model_is_measured(zoo):
    record = zoo.measure("own", "siamese")
    # Linear 6 -> 16 -> 12, then a bilinear form of two such: the units of both layers.
    assert record["groups"] == 2
    assert (record["axes"], record["axes_of_all"]) == (7, 10)
    # All but the two biases of the outputs may move.
    assert record["share"] == 1 - 2 / record["parameters"]
    assert record["traced"]
    assert record["kept"]
    assert record["error"] < 1e-14
    assert record["half_reordered"] > 1e-3


def test_a_wrong_rule_that_the_proof_passes_is_silently_wrong(zoo, monkeypatch):
    """The check must not depend on the proof: here there is none, and nothing is ever pinned."""
    monkeypatch.setattr(finding, "prove", lambda *args, **kwargs: Proof(0.0, ()))
    monkeypatch.setattr(solving.Space, "pin", lambda self, axis, reason: None)
    record = zoo.measure("own", "siamese")
    assert record["proof"] == 0
    assert not record["kept"]
    assert record["error"] > 1e-3
    row = zoo.summary([{"family": "own", "name": "siamese", **record}]).splitlines()[-1]
    assert row.split("|")[1:6] == [" own ", " 1 ", " 1 ", " 0 ", " 1 "]


def test_a_model_that_cannot_be_traced_has_a_reason(zoo, monkeypatch):
    def refuse(*args, **kwargs):
        raise TraceError("an `if` on a tensor")

    monkeypatch.setattr(zoo.conjoin, "find_symmetries", refuse)
    record = zoo.measure("own", "mlp")
    assert record == {"traced": False, "reason": "an `if` on a tensor"}


def test_a_reordered_copy_is_put_back_exactly(zoo):
    record = zoo.aligning.measure("own", "siamese")
    assert record["verdict"] == "exact"
    assert record["differ"] == record["misplaced"] == {}
    assert (record["groups"], record["units"]) == (2, 28)
    assert record["before"] < 0.9 < record["objective"]


def test_what_is_not_put_back_is_wrong_and_named(zoo, monkeypatch):
    """With an alignment that changes nothing."""

    def idle(model, to, symmetries):
        found = align([to, model], symmetries=symmetries)[0]  # the first keeps its order
        assert found.permutations.is_identity()
        return found

    align = zoo.conjoin.align
    monkeypatch.setattr(zoo.conjoin, "align", idle)
    record = zoo.aligning.measure("own", "siamese")
    assert record["verdict"] == "wrong"
    assert record["share_in_place"] < 0.5
    assert len(record["misplaced"]) == 2
    assert all(0.5 < share <= 1 for share in record["differ"].values())
    line = zoo.aligning.line_of({"family": "own", "name": "siamese", **record})
    assert f"{len(record['differ'])} weights differ" in line


def test_an_alignment_that_takes_too_long_is_given_up(zoo, monkeypatch):
    def endless(*args, **kwargs):
        while True:
            pass

    handler = signal.getsignal(signal.SIGPROF)
    monkeypatch.setattr(zoo.conjoin, "align", endless)
    monkeypatch.setattr(zoo.aligning, "LIMIT", 0.1)
    record = zoo.aligning.measure("own", "siamese")
    assert record["verdict"] == "too slow"
    assert signal.getsignal(signal.SIGPROF) == handler
    assert signal.getitimer(signal.ITIMER_PROF) == (0, 0)
    monkeypatch.undo()
    refused = {"traced": False, "reason": "an `if` on a tensor"}
    died = {"reason": "the process died, exit code 3"}
    records = [{"family": "own", "name": "n", **one} for one in (record, refused, died)]
    row = zoo.aligning.summary(records).splitlines()[-1]
    assert row.split("|")[1:8] == [" own ", " 3 ", " 2 ", " 0 ", " 0 ", " 1 ", " 1 "]


ANSWERS = """
import os


def answer(family, name):
    while name == "slow":
        pass
    if name == "hungry":
        return {"found": bytearray(2**40)}
    if name == "crashed":
        os._exit(3)
    return {"found": len(name)}
"""


def test_what_fails_does_not_stop_the_others(zoo, tmp_path, monkeypatch):
    (tmp_path / "answers_of_a_test.py").write_text(ANSWERS)  # another process imports it
    monkeypatch.syspath_prepend(str(tmp_path))
    from answers_of_a_test import answer
    from zoo_models.running import run

    output, seen = tmp_path / "found.jsonl", []
    tasks = [("a", name) for name in ("one", "hungry", "crashed", "slow", "three")]
    options = {"seconds": 1, "memory": 64, "say": seen.append}
    run(tasks[:2], answer, output, **options)
    found = run(tasks, answer, output, **options)
    assert found["a", "one"] == {"family": "a", "name": "one", "found": 3}
    assert found["a", "hungry"]["reason"].startswith("MemoryError")
    assert found["a", "crashed"]["reason"] == "the process died, exit code 3"
    assert found["a", "slow"]["reason"] == "given up after 1 seconds of the processor"
    assert found["a", "three"]["found"] == 5
    # What was known was not measured again, and every record is a line.
    assert [record["name"] for record in seen] == [name for _, name in tasks]
    assert [json.loads(line) for line in output.read_text().splitlines()] == seen


def test_a_run_prints_a_line_for_each_model_and_a_table(zoo, tmp_path, capsys):
    output = tmp_path / "found.jsonl"
    arguments = ["--family", "own", "--only", "mlp", "--only", "sia*", "--output", str(output)]
    assert zoo.main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[:2]] == [["own", "mlp"], ["own", "siamese"]]
    assert lines[-1].startswith("| own | 2 | 2 | 2 | 0 | 0 | 0 |")
    assert zoo.main([*arguments, "--table"]) == 0
    assert capsys.readouterr().out.splitlines() == lines[2:]


def test_a_run_that_aligns_prints_its_own_lines_and_table(zoo, capsys, monkeypatch):
    def here(tasks, measure, output, *, say, **limits):
        """Measure in this process, which is faster."""
        records = {(f, n): {"family": f, "name": n, **measure(f, n)} for f, n in tasks}
        list(map(say, records.values()))
        return records

    monkeypatch.setattr(zoo, "run", here)
    assert zoo.main(["--align", "--family", "own", "--only", "mlp"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:7] == ["own", "mlp", "2", "groups,", "44", "units,", "exact"]
    assert lines[-1].startswith("| own | 1 | 1 | 1 | 0 | 0 | 0 |")
