"""What to merge, written down: recipes from YAML, checked before any model is opened.

    recipe.yml ──► nodes (with lines) ──► forms ──► Recipe
    mergekit's YAML ─────────────────────────────────┘

`read_recipe` finds every problem at once, each with its line. `find_layers` finds the stacks of
repeated layers in the names of a model's tensors, and `Value.at` the value of a parameter there.

    Recipe ──► make_plan (headers alone) ──► Plan ──► run_plan ──► files
"""

from conjoin.recipes.layers import InLayer, Layers, Outside, Stack, find_layers
from conjoin.recipes.plan import Plan, Record, make_plan
from conjoin.recipes.problems import Place
from conjoin.recipes.reading import read_recipe, recipe_from, recipe_from_text
from conjoin.recipes.recipe import BASE, Keep, KindRule, Output, Part, Recipe, Source, Use
from conjoin.recipes.run import Options, run_plan
from conjoin.recipes.schema import recipe_schema
from conjoin.recipes.tasks import tasks_of
from conjoin.recipes.values import Gradient, Rule, Value
from conjoin.recipes.verifying import Verdict, verify

__all__ = [
    "BASE",
    "Gradient",
    "InLayer",
    "Keep",
    "KindRule",
    "Layers",
    "Options",
    "Output",
    "Outside",
    "Part",
    "Place",
    "Plan",
    "Recipe",
    "Record",
    "Rule",
    "Source",
    "Stack",
    "Use",
    "Value",
    "Verdict",
    "find_layers",
    "make_plan",
    "read_recipe",
    "recipe_from",
    "recipe_from_text",
    "recipe_schema",
    "run_plan",
    "tasks_of",
    "verify",
]
