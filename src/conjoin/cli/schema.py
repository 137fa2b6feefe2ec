"""`conjoin schema`."""

__all__ = ["schema"]


def schema() -> None:
    """Print the format of recipes as JSON schema, for editors that complete and check YAML.

    Made of the tables that read a recipe, so it has every method with its parameters. What a
    schema cannot say (names of models, files, weights that cancel) is left to
    [bold]conjoin plan[/bold].

    Writes nothing. Recipes that begin with the line
    [dim]# yaml-language-server: $schema=recipe.schema.json[/dim] are checked while you type.

    [dim]conjoin schema > recipe.schema.json[/dim]

    [dim]conjoin schema | jq '.properties.method.enum'[/dim]
    """
    from conjoin.cli.output import print_json
    from conjoin.recipes import recipe_schema

    print_json(recipe_schema())
