"""The chat template of the result: the text by which a tokenizer writes down a conversation."""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from conjoin.checkpoints import Checkpoint
from conjoin.recipes.beside import folder_of_tokenizer, parsed_json
from conjoin.recipes.opening import Opened
from conjoin.recipes.recipe import Recipe
from conjoin.recipes.template_form import AUTO, CHAT_TEMPLATES

__all__ = ["TEMPLATE_FILES", "chat_template_of", "with_chat_template"]

_CONFIGS = ("tokenizer_config.json", "chat_template.json")
_TEXT = "chat_template.jinja"
TEMPLATE_FILES = (*_CONFIGS, _TEXT)
"""Files in which a template may stand; that of the last comes first where there are several."""


def chat_template_of(
    recipe: Recipe, opened: Opened, carried: Mapping[str, Path]
) -> tuple[str | None, list[str]]:
    """Give the template that the result gets, None to leave it; and what to tell about it.

    Args:
        recipe: what is made.
        opened: its models.
        carried: files that go along.
    """
    wanted = recipe.output.chat_template
    if wanted is None or opened.missing:
        return None, []
    if not any(name in carried for name in TEMPLATE_FILES):
        return None, ["no tokenizer_config.json goes along, so that no chat template is written"]
    if wanted != AUTO:
        return CHAT_TEMPLATES.get(wanted, wanted), []
    models = [*opened.models] if opened.base is None else [opened.base, *opened.models]
    found = Counter(filter(None, map(_template_beside, models)))
    if not found:
        return None, ["no model has a chat template that the result could get"]
    # Of several that are as frequent, that of the base, or of the first model.
    template, count = found.most_common(1)[0]
    told = f"the chat template is that of {count} of {len(models)} models"
    return template, [told] if len(found) > 1 or count < len(models) else []


def with_chat_template(name: str, content: bytes, template: str) -> bytes:
    """Give the content of a carried file with another template, if that is where it stands."""
    if name == _TEXT:
        return template.encode()
    config = parsed_json(content) if name in _CONFIGS else None
    if config is None:
        return content
    config["chat_template"] = template
    return (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode()


def _template_beside(checkpoint: Checkpoint) -> str | None:
    """The template in the files beside a model, without spaces at its ends."""
    for name in reversed(TEMPLATE_FILES):
        folder = folder_of_tokenizer(checkpoint, name)
        try:
            content = b"" if folder is None else (folder / name).read_bytes()
        except OSError:
            continue
        said: Any = content.decode(errors="replace") if name == _TEXT else None
        if name != _TEXT:
            said = (parsed_json(content) or {}).get("chat_template")
        if isinstance(said, list):  # several, by name
            names = [one for one in said if isinstance(one, dict) and one.get("name") == "default"]
            said = names[0].get("template") if names else None
        if isinstance(said, dict):
            said = said.get("default")
        if isinstance(said, str) and said.strip():
            return said.strip()
    return None
