"""A kill at any moment, and going on: the bytes of a run that was never interrupted."""

import json
import random
import shutil
import sys
import time

import pytest
import torch
import yaml
from forked_runs import EXISTS, FAILED
from streaming_runs import filled, on_disk, tree

from conjoin.streaming import partial_of

pytestmark = pytest.mark.skipif(not hasattr(sys, "addaudithook"), reason="needs audit hooks")

SIGKILL = -9


class World:
    """A folder with models, recipes and, after a first run, what has to come out."""

    def __init__(self, folder, forked_runs, *, single=None):
        self.folder, self._runs, self.single = folder, forked_runs, single
        self.out = folder / "results" / ("out.safetensors" if single else "out")
        self.out.parent.mkdir()
        self.recipe = folder / "recipe.yml"
        for number, name in enumerate(("base", "a", "b")):
            model = folder / name
            model.mkdir()
            (model / "config.json").write_text(json.dumps({"model_type": "toy"}))
            state = {
                f"w{i}": filled((50 + 90 * i,), torch.bfloat16, 7 * number + i) for i in range(6)
            }
            on_disk(state, model / "model.safetensors")
        self.write_recipe()
        assert self.run(count=str(folder / "count")) == 0, self.error()
        self.expected = self.files()
        self.steps = int((folder / "count").read_text())
        self.clear()

    def write_recipe(self, density=0.5):
        recipe = {
            "method": "ties",
            "base": "base",
            "models": ["a", "b"],
            "parameters": {"density": density},
            "output": {} if self.single else {"shard_size": 1000},
        }
        self.recipe.write_text(yaml.safe_dump(recipe))

    def run(self, *, resume=False, overwrite=False, **order):
        options = {"resume": resume, "overwrite": overwrite, "threads": 2, "sync": False}
        return self._runs(
            do="merge",
            recipe=str(self.recipe),
            out=str(self.out),
            single=self.single,
            options={**options, **order.pop("options", {})},
            error=str(self.folder / "error"),
            **order,
        )

    def error(self):
        path = self.folder / "error"
        return path.read_text() if path.exists() else "none"

    def files(self):
        """All that lies where results do, without the partial folder."""
        if not self.single:
            assert {path.name for path in self.out.parent.iterdir()} <= {"out", "out.partial"}
            return tree(self.out) if self.out.exists() else {}
        return {p.name: p.read_bytes() for p in self.out.parent.iterdir() if p.is_file()}

    def clear(self):
        for path in list(self.out.parent.iterdir()):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def goes_on(self, **order):
        """Go on after a kill; the result has to be what it always is."""
        code = self.run(resume=True, **order)
        # A run that had come to its end is told that there is nothing left to do.
        assert code == 0 or (code == EXISTS and not order.get("overwrite")), self.error()
        assert self.files() == self.expected
        # Killed at its very end, a run may have removed its folder, or not.
        assert code == EXISTS or not partial_of(self.out).exists()


@pytest.fixture
def world(tmp_path, forked_runs):
    return World(tmp_path, forked_runs)


def _steps(count, chosen, seed):
    """Steps of a run: the first and the last ones, where most can go wrong, and some between."""
    edges = {*range(0, 20, 2), *range(count - 24, count)} & set(range(count))
    between = sorted(set(range(count)) - edges)
    drawn = random.Random(seed).sample(between, min(len(between), chosen))
    return sorted([*edges, *drawn])


@pytest.mark.slow
def test_thirty_kills_at_random_moments(world):
    begin = time.monotonic()
    assert world.run(pause=0.005) == 0
    seconds = time.monotonic() - begin
    rng, killed, tried = random.Random(0), 0, 0
    while killed < 30:
        world.clear()
        code = world.run(pause=0.005, seconds=rng.uniform(0, seconds))
        assert code in (0, SIGKILL)
        assert world.files() in ({}, world.expected)
        if code == SIGKILL:
            killed += 1
            world.goes_on()
        else:
            seconds *= 0.9  # the kill came too late: the first run was a slow one
        tried += 1
        assert tried < 100


@pytest.mark.slow
def test_a_kill_before_any_step_on_the_disk(world):
    assert world.steps > 60
    for step in _steps(world.steps, 8, seed=1):
        world.clear()
        if world.run(step=step) == 0:
            continue  # threads count a little differently from time to time
        assert world.files() in ({}, world.expected), step
        world.goes_on()


@pytest.mark.slow
def test_a_kill_while_an_old_result_is_replaced(world):
    assert world.run() == 0
    old = world.files()
    world.write_recipe(density=0.9)  # the same sizes and names: nothing but the bytes differ
    assert world.run(overwrite=True) == 0
    world.expected = world.files()
    assert world.expected != old
    edges = [step for step in _steps(world.steps + 20, 0, seed=2) if step > 20]
    for step in edges:
        world.clear()
        world.out.mkdir()
        for name, content in old.items():
            (world.out / name).write_bytes(content)
        if world.run(step=step, overwrite=True) == 0:
            continue
        assert world.files() in (old, world.expected), step
        world.goes_on(overwrite=True)


@pytest.mark.slow
def test_a_kill_while_a_single_file_is_made(tmp_path, forked_runs):
    world = World(tmp_path, forked_runs, single="out.safetensors")
    assert sorted(world.expected) == ["out.conjoin.json", "out.safetensors"]
    for step in range(world.steps - 25, world.steps):
        world.clear()
        if world.run(step=step) == 0:
            continue
        files = world.files()
        if "out.safetensors" in files:
            assert files == world.expected  # the record is never missing beside the file
        world.goes_on()


def test_several_kills_one_after_the_other(world):
    world.run(pause=0.005, step=world.steps // 3)
    world.run(resume=True, step=20)
    world.run(resume=True, step=25)
    world.goes_on()


# What may happen between a kill and going on ------------------------------------------------------


def _interrupted(world):
    """A run of which about two thirds are done."""
    assert world.run(step=2 * world.steps // 3) == SIGKILL
    journals = list(partial_of(world.out).glob("journal-*.jsonl"))
    assert sum(path.read_bytes().count(b"\n") for path in journals) > 5
    return partial_of(world.out)


def test_without_being_asked_nothing_is_gone_on_with_or_removed(world):
    folder = _interrupted(world)
    before = tree(folder)
    assert world.run() == FAILED
    assert world.error().startswith("StageError: an interrupted run has left")
    assert tree(folder) == before


def test_bytes_that_were_changed_are_made_again(world):
    folder = _interrupted(world)
    for path in (folder / "result").glob("*.safetensors"):
        content = bytearray(path.read_bytes())
        for position in range(0, len(content), 97):  # headers too
            content[position] ^= 0x5A
        path.write_bytes(content)
    (folder / "result" / "model.safetensors.index.json").write_bytes(b"nonsense")
    world.goes_on()


def test_a_journal_that_tells_of_what_was_never_written(world):
    folder = _interrupted(world)
    lines = [
        json.dumps({"job": job, "out": "0" * 16, "inputs": [None] * count})
        for job in range(40)
        for count in (0, 3)
    ]
    (folder / "journal-0-7.jsonl").write_text("\n".join(lines) + "\n{torn")
    world.goes_on()


def test_a_link_is_not_written_through(world, tmp_path):
    folder = _interrupted(world)
    shard = next((folder / "result").glob("*.safetensors"))
    victim = tmp_path / "victim"
    victim.write_bytes(b"\0" * shard.stat().st_size)
    shard.unlink()
    shard.symlink_to(victim)
    assert world.run(resume=True) == FAILED
    assert "is, or lies behind, a link" in world.error()
    assert set(victim.read_bytes()) == {0}
    assert not world.out.exists()


def test_a_folder_that_is_a_link_is_not_written_through(world, tmp_path):
    folder = _interrupted(world)
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(folder / "result", elsewhere)
    before = tree(elsewhere)
    shutil.rmtree(folder / "result")
    (folder / "result").symlink_to(elsewhere)
    assert world.run(resume=True) == FAILED
    assert "is, or lies behind, a link" in world.error()
    assert tree(elsewhere) == before


@pytest.mark.parametrize("change", ["shorter", "missing"])
def test_files_that_are_not_what_was_left(world, change):
    folder = _interrupted(world)
    shard = next((folder / "result").glob("*.safetensors"))
    if change == "missing":
        shard.unlink()
    else:
        shard.write_bytes(shard.read_bytes()[:-1])
    assert world.run(resume=True) == FAILED
    assert world.error().startswith(f"StageError: {shard} ")
    assert "begin again" in world.error()


@pytest.mark.parametrize("change", ["replaced", "touched", "recipe"])
def test_another_input_or_recipe_is_not_gone_on_with(world, change):
    folder = _interrupted(world)
    before = tree(folder)
    path = world.folder / "a" / "model.safetensors"
    if change == "replaced":
        on_disk({f"w{i}": filled((50 + 90 * i,), torch.bfloat16, i) for i in range(6)}, path)
    elif change == "touched":
        path.touch()
    else:
        world.write_recipe(density=0.6)
    assert world.run(resume=True) == FAILED
    expected = "the recipe has changed" if change == "recipe" else "an input has changed"
    assert expected in world.error()
    assert tree(folder) == before
    assert world.run(options={"restart": True}) == 0


def test_going_on_with_nothing_begins(world):
    world.goes_on()


def test_the_lock_of_a_run_that_was_killed_is_free(tmp_path, forked_runs):
    from conjoin.errors import StageError
    from conjoin.streaming import run_place

    out, ready = tmp_path / "out", tmp_path / "ready"
    forked_runs.send({"do": "hold", "out": str(out), "ready": str(ready)})
    deadline = time.monotonic() + 60
    while not ready.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    try:
        with pytest.raises(StageError, match="another run is making"), run_place(out):
            pass
    finally:
        forked_runs.send({})
        code = forked_runs.answer()
    assert code == SIGKILL
    with run_place(out) as place:
        assert place.plan() == {"hash": "h"}
