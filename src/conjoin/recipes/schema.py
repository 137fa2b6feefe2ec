"""The format of recipes as JSON schema, for editors."""

from typing import Any

from conjoin.methods import METHODS
from conjoin.recipes.native import recipe_form

__all__ = ["recipe_schema"]


def recipe_schema() -> dict[str, Any]:
    """Give the JSON schema (draft 2020-12) of a recipe, made of the tables that read it.

    What a schema cannot say is left to the reader: names of models, files, numbers of models, and
    weights that cancel.

    >>> recipe_schema()["properties"]["method"]["enum"][:2]
    ['sum', 'mean']
    """
    schema = recipe_form(None).schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "conjoin recipe"
    schema["oneOf"] = [{"required": ["models"]}, {"required": ["slices"]}]
    schema["allOf"] = [
        {
            "if": {"properties": {"method": {"const": name}}, "required": ["method"]},
            "then": {"properties": {k: v.schema() for k, v in recipe_form(row).forms.items()}},
        }
        for name, row in METHODS.items()
    ]
    return schema
