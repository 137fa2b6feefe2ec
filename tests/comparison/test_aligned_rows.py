"""Rows with layers of each task's own, told the task or not."""

import torch

from conjoin.comparison import aligned_rows

TOLD = "least squares, small layers per task"
INFERRED = "least squares, small layers per task, task inferred"


def _data(tiny, networks):
    """Three tasks that look different; of the last two, the second network is the right one."""
    found = {}
    for number, (task, network) in enumerate(networks.items()):
        split = tiny.parts(10 * number, train=60)
        shift = 10.0 * (number - 1)
        found[task] = {
            part: (x + shift, network(x + shift).argmax(1).detach())
            for part, (x, _) in split.items()
        }
    return found


def test_a_network_with_two_tasks_is_found_for_both(tiny, value_of, monkeypatch):
    # With fewer examples than the settings allow: all tasks of a network are looked at even so.
    monkeypatch.setattr(aligned_rows, "MOST", 20)
    torch.manual_seed(0)
    first, second = tiny.network(0, width=30), tiny.network(1, width=30)
    data = _data(tiny, {"one": first, "two": second, "three": second})
    # Names that no module may have: with a dot, and that of a method.
    run = tiny.compare({"a.v1": first, "train": second}, data)
    assert set(run.info.specialists.values()) == {"models: a.v1 alone", "models: train alone"}
    told, inferred = value_of(run, TOLD), value_of(run, INFERRED)
    assert set(told) == {"one", "two", "three"}
    assert inferred == told
    row = next(row for row in run.info.rows if row.name == INFERRED)
    assert not row.uses_task_label
