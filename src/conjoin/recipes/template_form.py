"""Chat templates by name, and what may stand for one in a recipe."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from conjoin.recipes.forms import MISSING, Missing, wrong
from conjoin.recipes.nodes import Node, ScalarNode
from conjoin.recipes.problems import Problems, unknown

__all__ = ["AUTO", "CHAT_TEMPLATES", "Template"]

AUTO = "auto"
"""That which most of the models have."""

CHAT_TEMPLATES: Mapping[str, str] = {
    "alpaca": (
        "{% for message in messages %}"
        "{% if message['role'] == 'system' %}{{ message['content'] | trim + '\\n\\n' }}"
        "{% elif message['role'] == 'user' %}"
        "{{ '### Instruction:\\n' + message['content'] | trim + '\\n\\n' }}"
        "{% elif message['role'] == 'assistant' %}"
        "{{ '### Response:\\n' + message['content'] | trim + '\\n\\n' }}"
        "{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '### Response:\\n' }}{% endif %}"
    ),
    "chatml": (
        "{% for message in messages %}"
        "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    ),
    "exaone": (
        "{% for message in messages %}"
        "{% if loop.first and message['role'] != 'system' %}"
        "{{ '[|system|][|endofturn|]\\n' }}{% endif %}"
        "{{ '[|' + message['role'] + '|]' + message['content'] }}"
        "{% if message['role'] == 'user' %}{{ '\\n' }}{% else %}{{ '[|endofturn|]\\n' }}{% endif %}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '[|assistant|]' }}{% endif %}"
    ),
    "llama3": (
        "{% for message in messages %}"
        "{% if loop.first %}{{ bos_token }}{% endif %}"
        "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + "
        "message['content'] | trim + '<|eot_id|>' }}"
        "{% endfor %}"
        "{% if add_generation_prompt %}"
        "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
    ),
    "mistral": (
        "{% set system = messages[0]['content'] + '\\n\\n' if messages[0]['role'] == 'system' "
        "else '' %}"
        "{% set turns = messages[1:] if messages[0]['role'] == 'system' else messages %}"
        "{{ bos_token }}"
        "{% for message in turns %}"
        "{% if message['role'] != ('user' if loop.index0 % 2 == 0 else 'assistant') %}"
        "{{ raise_exception('after the system message, if there is one, user and assistant have "
        "to take turns') }}"
        "{% elif message['role'] == 'user' %}"
        "{{ ' [INST] ' + (system if loop.first else '') + message['content'] + ' [/INST]' }}"
        "{% else %}{{ ' ' + message['content'] + eos_token }}{% endif %}"
        "{% endfor %}"
    ),
}
"""By the name that mergekit has for them; each is in the form in which its models were trained."""


@dataclass(frozen=True)
class Template:
    """A chat template: its name, or its own text in the language of Jinja."""

    @property
    def expected(self) -> str:
        """What is expected, in words."""
        return f"{AUTO}, {', '.join(CHAT_TEMPLATES)}, or a template itself"

    def read(self, node: Node, problems: Problems) -> str | Missing:
        """Give the text as it is written."""
        value = node.value if isinstance(node, ScalarNode) else None
        if not isinstance(value, str) or not value.strip():
            return wrong(self, node, problems)
        if value in (AUTO, *CHAT_TEMPLATES) or "{" in value:
            return value
        hint = unknown("chat template", value, (AUTO, *CHAT_TEMPLATES))
        problems.add(node.place, f"{hint}; or write the template itself, which has some '{{{{'")
        return MISSING

    def schema(self) -> dict[str, Any]:
        """The same as JSON schema."""
        return {
            "anyOf": [{"enum": [AUTO, *CHAT_TEMPLATES]}, {"type": "string", "pattern": r"\{"}],
            "description": self.expected,
        }
