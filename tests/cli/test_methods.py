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


def test_unknown_method(run):
    assert "did you mean 'mean'" in run("methods", "meen", code=2).stderr
