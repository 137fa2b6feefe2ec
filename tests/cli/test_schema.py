import json

from conjoin.methods import METHODS
from conjoin.recipes import recipe_schema


def test_the_schema_is_that_of_the_reader(run):
    result = run("schema")
    assert json.loads(result.stdout) == json.loads(json.dumps(recipe_schema()))
    assert result.stderr == ""
    assert json.loads(result.stdout)["properties"]["method"]["enum"] == list(METHODS)
