"""Records of the view ``alignment`` for a written run folder, with numbers that no network made."""

import numpy as np

from conjoin.records import Record, read_results, write_json

SIZE = 12
"""Units of the maps."""

PAIRS = 90
"""Percent: what a correct match correlates by."""


def add_alignment(folder, *, groups=1, batchnorm=True, odd=""):
    """Add what alignment has changed to a run folder of `write_synthetic_run`.

    Args:
        folder: with `results.json`; written anew.
        groups: how many of the run's groups have it.
        batchnorm: whether there are repaired variants.
        odd: what names of layers begin with.
    """
    found = read_results(folder / "results.json")
    keys = [entry["key"] for entry in found.run["groups"]][1 : 1 + groups]
    tasks = [task["name"] for task in found.run["tasks"] if task["trained_on"]]
    regression = found.run["tasks"][0]["metric"] == "loss"
    records = [
        record for key in keys for record in _records(key, tasks, batchnorm, regression, odd)
    ]
    write_json(
        folder / "results.json",
        [*found.records, *records],
        run=found.run,
        intervals=found.intervals,
    )
    return records


def _records(key, tasks, batchnorm, regression, odd):
    model, base = f"{key}: alignment", {"view": "alignment", "group": key, "from": "a", "to": "b"}
    metrics = ("loss",) if regression else ("accuracy", "loss")

    def record(task, split, metric, value, **how):
        return Record(model, task, split, 0, metric, float(value), 500, {**base, **how})

    fresh = (False, True) if batchnorm else (False,)
    together = " + ".join(tasks)
    for index in range(4):
        how = {"of": "units", "units": f"{index}.weight:0", "layer": f"{odd}stage {index}",
               "index": index, "size": 8 * (index + 1)}  # fmt: skip
        yield record(together, "train", "moved fraction", 0.95, **how)
        if index < 3:  # the last one is not seen
            for aligned, value in ((False, 0.02), (True, 0.7 - 0.1 * index)):
                how["aligned"] = aligned
                yield record(together, "test", "unit correlation", value, **how)
            yield record(together, "test", "matched fraction", 0.9 - 0.1 * index, **how)
    rng = np.random.default_rng(0)
    for place, layer in (("early", "stage 0"), ("late", "stage 2")):
        noise = rng.uniform(-0.3, 0.3, (SIZE, SIZE))
        for aligned in (False, True):
            matrix = noise + (PAIRS / 100 - noise) * np.eye(SIZE) * aligned
            text = [" ".join(f"{value:.2f}" for value in row) for row in matrix]
            how = {"of": "pairs of units", "units": layer, "layer": odd + layer, "place": place,
                   "size": SIZE, "aligned": aligned, "matrix": text}  # fmt: skip
            yield record(together, "test", "unit correlation", np.diagonal(matrix).mean(), **how)
    for task in tasks:
        for index in range(1, 6):
            for reestimated in fresh:
                how = {"of": "variance", "layer": ("stage 1", "stage 2", "stage 3", "stage 4",
                       "head")[index - 1], "index": index, "aligned": True,
                       "reestimated": reestimated}  # fmt: skip
                yield record(task, "test", "activation variance", 0.8 + 0.1 * reestimated, **how)
        for reestimated in fresh:
            how = {"aligned": True, "reestimated": reestimated}
            depth = 0.1 if reestimated else 0.3
            for metric in metrics:
                base_value, sign = (98, -80) if metric == "accuracy" else (0.1, 2)
                for t in (0.0, 0.25, 0.5, 0.75, 1.0):
                    value = base_value + sign * depth * 4 * t * (1 - t)
                    yield record(task, "test", metric, value, of="interpolation", t=t, **how)
                yield record(
                    task, "test", f"{metric} barrier", abs(sign) * depth, of="barrier", **how
                )
        for index in (0, 2, 4, 5):
            for metric in metrics:
                value = 98 - 2 * index if metric == "accuracy" else 0.1 + 0.1 * index
                layer = ("none", "stage 1", "stage 2", "stage 3", "stage 4", "head")[index]
                how = {"of": "depth", "mode": "first", "index": index, "layer": layer,
                       "aligned": True, "uses_task_label": True}  # fmt: skip
                yield record(task, "test", metric, value, **how)
