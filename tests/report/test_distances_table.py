"""The table of distances against values worked by hand."""

import io
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from conjoin.records import Record
from conjoin.report.distances_table import DistancesLine, distances_lines
from conjoin.report.run_folder import Run, RunInfo, Skipped
from conjoin.report.table import markdown_table, print_table


def make_run(values, skipped=()):
    """A run of distances: (from, to, layer) -> [(relative distance, cosine) for each seed]."""
    records = [
        Record(
            f"models: {first} to {second}", "weights", "none", seed, metric, value, 4,
            {"view": "distances", "group": "models", "from": first, "to": second,
             "layer": layer, "index": 0},
        )
        for (first, second, layer), pairs in values.items()
        for seed, pair in enumerate(pairs)
        for metric, value in zip(("relative distance", "cosine"), pair, strict=True)
    ]  # fmt: skip
    parts = {"tasks": [], "groups": [], "rows": [], "skipped": list(skipped)}
    info = RunInfo(experiment="compare", title="t", seeds=[0], **parts)
    return Run(Path(), info, tuple(records), ())


def shown(run):
    console = Console(file=io.StringIO(), width=200, color_system=None)
    print_table(run, console)
    return console.file.getvalue()


def test_by_hand():
    run = make_run({("a", "b", "1"): [(1.0, 0.5), (2.0, 0.25)], ("a", "b", "2"): [(0.5, -0.375)]})
    assert distances_lines(run) == (
        DistancesLine("a to b", "1", 1.5, 0.375),
        DistancesLine("a to b", "2", 0.5, -0.375),
        DistancesLine("a to b", "mean", 1.0, 0.0),
    )


def test_markdown_by_hand():
    skipped = Skipped(group="models", name="rows", reason="no | class")
    run = make_run({("a|b", "c", "fc_1"): [(1.4142, -0.0004)]}, [skipped])
    assert markdown_table(run) == (
        "Distances between the weights:\n"
        "\n"
        "| layer | relative distance | cosine |\n"
        "|---|---:|---:|\n"
        "| **a\\|b to c** |  |  |\n"
        "| fc\\_1 | 1.41 | 0.000 |\n"
        "| mean | 1.41 | 0.000 |\n"
        "\n"
        "The relative distance is |a - b| / |a|: weights of one length that have nothing to do "
        "with each other are at 1.41, with a cosine of 0.\n"
        "\n"
        "Left out:\n"
        "\n"
        "- rows (models): no \\| class\n"
    )


def test_the_terminal_has_no_table_of_networks_that_were_not_run():
    text = shown(make_run({("a", "b", "fc"): [(0.5, 0.875)]}))
    assert "Accuracy" not in text
    assert "Nothing has been measured" not in text
    assert "0.500" in text
    assert "0.875" in text


def test_a_run_without_anything_says_so():
    assert "Nothing has been measured yet" in shown(make_run({}))


@given(st.integers(1, 60), st.integers(1, 4))
def test_the_terminal_shows_few_layers_and_every_mean_and_the_file_all(layers, pairs):
    values = {
        (f"a{pair}", "b", f"layer{layer}"): [(1.0, 0.0)]
        for pair in range(pairs)
        for layer in range(layers)
    }
    run = make_run(values)
    text, total = shown(run), pairs * (layers + 1)
    assert text.count("mean") == pairs
    found = text.count("layer") - 1 - ("more layers" in text)  # the heading
    assert found + pairs == min(total, 40)
    assert (f"{total - 40} more layers" in text) == (total > 40)
    assert markdown_table(run).count("| layer") == pairs * layers + 1
