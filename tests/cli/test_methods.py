import json

from conjoin.methods import METHODS


def test_all_methods_are_listed(run):
    text = run("methods").stdout
    rows = json.loads(run("methods", "--json").stdout)
    assert [row["name"] for row in rows] == list(METHODS)
    for name, method in METHODS.items():
        assert name in text
        assert method.formula in text


def test_one_method(run):
    text = run("methods", "linear").stdout
    assert "normalize=true" in text
    assert "arXiv:2203.05482" in text
    assert ">>> linear([a, b], weights=[3, 1])" in text
    row = json.loads(run("methods", "linear", "--json").stdout)
    assert (row["parameters"], row["needs"]) == ({"normalize": True}, ["weights"])


def test_what_a_parameter_may_be(run):
    lines = run("methods", "dare_ties").stdout.splitlines()
    (density,) = [line.split(maxsplit=1) for line in lines if line.startswith("  density=")]
    assert density[1].startswith("a number from 0 to 1, or one per model")
    (rescale,) = [line.split(maxsplit=1) for line in lines if line.startswith("  rescale=")]
    assert rescale == ["rescale=expectation", "one of expectation, l1, none"]
    row = json.loads(run("methods", "dare_ties", "--json").stdout)
    assert row["accepts"]["rescale"] == {"enum": ["expectation", "l1", "none"]}
    assert row["accepts"]["density"] == {"type": "number", "minimum": 0, "maximum": 1}
    assert row["per_model"] == ["density"]


def test_how_many_models(run):
    assert "merges: exactly 2 models" in run("methods", "slerp").stdout
    assert json.loads(run("methods", "slerp", "--json").stdout)["models"] == 2
    text = run("methods", "mean").stdout
    assert not any(words in text for words in ("exactly", "at least", "one result for"))
    assert "merges: at least 2 models" in run("methods", "model_stock").stdout
    assert json.loads(run("methods", "model_stock", "--json").stdout)["least"] == 2


def test_what_is_optional(run):
    assert "needs: weights, base (optional)" in run("methods", "nuslerp").stdout
    row = json.loads(run("methods", "nuslerp", "--json").stdout)
    assert (row["needs"], row["optional"]) == (["weights"], ["base"])
    assert "optional" not in run("methods", "ties").stdout


def test_one_result_for_each_model(run):
    assert "gives: one result for each model, chosen by task" in run("methods", "emr").stdout
    rows = json.loads(run("methods", "--json").stdout)
    assert [row["name"] for row in rows if row["per_task"]] == [
        name for name, method in METHODS.items() if method.per_task
    ]


def test_unknown_method(run):
    assert "did you mean 'mean'" in run("methods", "meen", code=2).stderr
