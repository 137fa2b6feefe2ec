"""The chat template of the result: the text by which a tokenizer writes down a conversation."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from conjoin.checkpoints import Checkpoint
from conjoin.recipes.beside import folder_of, folder_of_tokenizer, json_bytes, parsed_json
from conjoin.recipes.opening import Opened
from conjoin.recipes.recipe import Recipe
from conjoin.recipes.template_form import AUTO, CHAT_TEMPLATES

__all__ = ["chat_template_of", "with_chat_template"]

_CONFIGS = ("tokenizer_config.json", "chat_template.json")
_TEXT = "chat_template.jinja"
_FILES = (_TEXT, *reversed(_CONFIGS))
"""Files in which a template may stand; the first that has one says it."""


def chat_template_of(
    recipe: Recipe, opened: Opened, carried: Mapping[str, Path], carrier: Checkpoint | None
) -> tuple[str | None, list[str]]:
    """Give the template that the result gets, None to leave it; and what to tell about it.

    Args:
        recipe: what is made.
        opened: its models.
        carried: files that go along.
        carrier: whose config they are.
    """
    wanted = recipe.output.chat_template
    if wanted is None or opened.missing:
        return None, []
    if not any(_has_room(name, path) for name, path in carried.items()):
        return None, ["no tokenizer_config.json goes along, so that no chat template is written"]
    if wanted != AUTO:
        return CHAT_TEMPLATES.get(wanted, wanted), []
    # A base that is merged too counts once. Of templates that as many have, the carrier's is first.
    models = {one.files[:1]: one for one in (carrier, *opened.models, opened.base) if one}
    of_each = [_template_beside(model) for model in models.values()]
    found = Counter(filter(None, of_each))
    if not found:
        return None, ["no model has a chat template that the result could get"]
    template, count = found.most_common(1)[0]
    told = f"the chat template is that of {count} of {len(models)} models"
    notes = [told] if count < len(models) else []
    if carrier is not None and _template_beside(carrier) == template:
        return None, notes  # it has it, maybe with others for other uses
    return template, notes


def with_chat_template(name: str, content: bytes, template: str) -> bytes:
    """Give the content of a carried file with another template, if that is where it stands."""
    if name == _TEXT:
        return template.encode(errors="replace")
    config = parsed_json(content) if name in _CONFIGS else None
    if config is None:
        return content
    return json_bytes({**config, "chat_template": template})


def _has_room(name: str, path: Path) -> bool:
    if name in _CONFIGS:
        return parsed_json(path.read_bytes()) is not None
    return name == _TEXT


def _template_beside(checkpoint: Checkpoint) -> str | None:
    """The template in the files beside a model, without spaces at its ends."""
    adapted = folder_of_tokenizer(checkpoint, _CONFIGS[0]) or folder_of(checkpoint)
    for folder in dict.fromkeys((adapted, folder_of(checkpoint))):
        for name in _FILES:
            found = None if folder is None else _template_in(folder / name)
            if found is not None:
                return found
    return None


def _template_in(path: Path) -> str | None:
    try:
        content = path.read_bytes()
    except OSError:
        return None
    said: Any = content.decode(errors="replace")
    if path.name != _TEXT:
        said = (parsed_json(content) or {}).get("chat_template")
    if isinstance(said, list):  # several, by name
        names = [one for one in said if isinstance(one, dict) and one.get("name") == "default"]
        said = names[0].get("template") if names else None
    if isinstance(said, dict):
        said = said.get("default")
    return said.strip() or None if isinstance(said, str) else None
