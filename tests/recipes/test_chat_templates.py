"""The chat template of a result: what a recipe says, and formats against functions written out."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from libraries import library
from token_models import tokenizer, write

from conjoin.checkpoints import save
from conjoin.errors import RecipeError
from conjoin.recipes.template_form import CHAT_TEMPLATES

MERGEKIT = "merge_method: linear\nmodels:\n" + "".join(
    f"  - {{model: {name}, parameters: {{weight: 1}}}}\n" for name in "abc"
)


def rendered(template, messages, *, prompt=False):
    """Text as transformers renders it."""

    def refuse(text):
        raise TemplateError(text)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = refuse
    return environment.from_string(template).render(
        messages=messages, bos_token="<s>", eos_token="</s>", add_generation_prompt=prompt
    )


def alpaca(messages, prompt):
    heads = {"system": "", "user": "### Instruction:\n", "assistant": "### Response:\n"}
    text = "".join(f"{heads[m['role']]}{m['content'].strip()}\n\n" for m in messages)
    return text + "### Response:\n" * prompt


def chatml(messages, prompt):
    text = "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages)
    return text + "<|im_start|>assistant\n" * prompt


def exaone(messages, prompt):
    ends = {"system": "[|endofturn|]\n", "user": "\n", "assistant": "[|endofturn|]\n"}
    text = "" if messages[0]["role"] == "system" else "[|system|][|endofturn|]\n"
    text += "".join(f"[|{m['role']}|]{m['content']}{ends[m['role']]}" for m in messages)
    return text + "[|assistant|]" * prompt


def llama3(messages, prompt):
    def head(role):
        return f"<|start_header_id|>{role}<|end_header_id|>\n\n"

    text = "".join(f"{head(m['role'])}{m['content'].strip()}<|eot_id|>" for m in messages)
    return "<s>" + text + head("assistant") * prompt


def mistral(messages, _):
    system, turns = "", messages
    if messages[0]["role"] == "system":
        system, turns = messages[0]["content"] + "\n\n", messages[1:]
    text = "<s>"
    for number, message in enumerate(turns):
        if number % 2:
            text += f" {message['content']}</s>"
        else:
            text += f" [INST] {system if number == 0 else ''}{message['content']} [/INST]"
    return text


FORMATS = {one.__name__: one for one in (alpaca, chatml, exaone, llama3, mistral)}
contents = st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=20)


@st.composite
def conversations(draw):
    roles = ["user", "assistant"] * draw(st.integers(1, 3))
    if draw(st.booleans()):
        roles.pop()
    if draw(st.booleans()):
        roles.insert(0, "system")
    return [{"role": role, "content": draw(contents)} for role in roles]


@pytest.mark.parametrize("name", CHAT_TEMPLATES)
@given(messages=conversations(), prompt=st.booleans())
def test_templates_write_their_formats(name, messages, prompt):
    found = rendered(CHAT_TEMPLATES[name], messages, prompt=prompt)
    assert found == FORMATS[name](messages, prompt)


def test_a_format_without_roles_in_a_row_says_so():
    twice = [{"role": "user", "content": "a"}] * 2
    with pytest.raises(TemplateError, match="take turns"):
        rendered(CHAT_TEMPLATES["mistral"], twice)


@pytest.fixture
def speakers(tmp_path):
    """Three models with tokenizers, of which two have one chat template."""
    for name, template in (("a", "{{ 1 }}"), ("b", " {{ 2 }}\n"), ("c", "{{ 2 }}")):
        write(tmp_path, name, ["<unk>", "one", "two"])
        config = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": template}
        (tmp_path / name / "tokenizer_config.json").write_text(json.dumps(config))
    return tmp_path


def written(folder, name="tokenizer_config.json"):
    return json.loads((folder / "out" / name).read_text("utf-8"))["chat_template"]


def test_one_by_its_name(speakers, made):
    made(MERGEKIT + "chat_template: chatml\n")
    assert written(speakers) == CHAT_TEMPLATES["chatml"]
    assert (speakers / "out/tokenizer.json").read_bytes() == (
        speakers / "a/tokenizer.json"
    ).read_bytes()


def test_one_that_the_recipe_has_itself(speakers, made):
    made("method: mean\nmodels: [a, b]\noutput:\n  chat_template: |\n    {{ messages }}ü\n")
    assert written(speakers) == "{{ messages }}ü\n"


def test_auto_is_that_which_most_have(speakers, made, plan):
    text = MERGEKIT + "chat_template: auto\n"
    assert "the chat template is that of 2 of 3 models" in plan(text).notes
    made(text)
    assert written(speakers) == "{{ 2 }}"


def test_auto_of_as_many_is_that_of_the_base(speakers, made):
    text = "method: task_arithmetic\nbase: c\nmodels: [a]\noutput: {chat_template: auto}\n"
    made(text)
    assert written(speakers) == "{{ 2 }}"


def test_auto_where_none_has_one(speakers, made, plan):
    for name in "abc":
        (speakers / name / "tokenizer_config.json").write_text('{"x": 1}')
    text = MERGEKIT + "chat_template: auto\n"
    assert "no model has a chat template that the result could get" in plan(text).notes
    made(text)
    assert (speakers / "out/tokenizer_config.json").read_text() == '{"x": 1}'


def test_auto_reads_a_template_wherever_it_may_stand(speakers, plan):
    def found():
        return plan(MERGEKIT + "chat_template: auto\n").chat_template

    several = [{"name": "tools", "template": "{{ 3 }}"}, {"name": "default", "template": "{{ 4 }}"}]
    for name in "bc":
        path = speakers / name / "tokenizer_config.json"
        path.write_text(json.dumps({"chat_template": several}))
    assert found() == "{{ 4 }}"
    for name in "bc":
        (speakers / name / "chat_template.jinja").write_text("{{ 5 }}\n")
    assert found() == "{{ 5 }}"


def test_it_is_written_wherever_the_carried_files_have_one(speakers, made):
    (speakers / "a/chat_template.jinja").write_text("{{ 5 }}")
    (speakers / "a/chat_template.json").write_text('{"chat_template": "{{ 6 }}"}')
    made(MERGEKIT + "chat_template: '{{ 7 }}'\n")
    assert written(speakers) == written(speakers, "chat_template.json") == "{{ 7 }}"
    assert (speakers / "out/chat_template.jinja").read_text() == "{{ 7 }}"


def test_the_template_of_an_adapter_comes_before_an_older_one_of_its_base(speakers, plan):
    lora = speakers / "lora"
    lora.mkdir()
    name = "base_model.model.model.layers.0.mlp"
    save(
        {f"{name}.lora_A.weight": torch.ones(1, 3), f"{name}.lora_B.weight": torch.ones(3, 1)},
        lora / "adapter_model.safetensors",
    )
    config = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": ["mlp"]}
    (lora / "adapter_config.json").write_text(json.dumps(config))
    (lora / "tokenizer.json").write_bytes((speakers / "a/tokenizer.json").read_bytes())
    (lora / "tokenizer_config.json").write_text('{"chat_template": "{{ 9 }}"}')
    (speakers / "a/chat_template.jinja").write_text("{{ 5 }}")
    (speakers / "b/tokenizer_config.json").write_text("{}")
    found = plan("method: mean\nmodels: [b, a+lora]\noutput: {chat_template: auto}\n")
    assert found.chat_template == "{{ 9 }}"
    carried = plan("method: mean\nmodels: [a+lora, b]\nvocabulary: union\n").carried
    assert "chat_template.jinja" not in carried
    assert carried["tokenizer_config.json"].parent == lora


def test_what_the_carried_files_have_is_left_with_all_that_is_beside_it(speakers, made):
    several = [{"name": "tools", "template": "{{ 3 }}"}, {"name": "default", "template": "{{ 4 }}"}]
    for name in "ab":
        path = speakers / name / "tokenizer_config.json"
        path.write_text(json.dumps({"chat_template": several}))
    made(MERGEKIT + "chat_template: auto\n")
    config = speakers / "out/tokenizer_config.json"
    assert config.read_bytes() == (speakers / "a/tokenizer_config.json").read_bytes()


def test_a_base_that_is_merged_too_counts_once(speakers, plan):
    (speakers / "c/tokenizer_config.json").write_text("{}")
    text = "merge_method: linear\nbase_model: b\nmodels:\n" + "".join(
        f"  - {{model: {name}, parameters: {{weight: 1}}}}\n" for name in "abc"
    )
    found = plan(text + "chat_template: auto\nkeep: {lm_head.weight: base}\n")
    assert "the chat template is that of 1 of 3 models" in found.notes
    assert found.chat_template is None  # that of b, whose files go along


@pytest.mark.parametrize("content", ["[]", "{", '{"x": 1}'])
def test_files_that_have_no_room_for_it(speakers, made, plan, content):
    (speakers / "a/tokenizer_config.json").write_text(content)
    text = MERGEKIT + "chat_template: chatml\n"
    told = any("no chat template is written" in note for note in plan(text).notes)
    made(text)
    if content.endswith("1}"):
        assert not told
        assert written(speakers) == CHAT_TEMPLATES["chatml"]
    else:
        assert told
        assert (speakers / "out/tokenizer_config.json").read_text() == content


def test_half_a_pair_of_surrogates_in_a_config(speakers, made):
    path = speakers / "a/tokenizer_config.json"
    path.write_text('{"x": "\\ud83d", "y": "\u00fc"}')
    made(MERGEKIT + "chat_template: chatml\n")
    assert written(speakers) == CHAT_TEMPLATES["chatml"]
    assert json.loads((speakers / "out/tokenizer_config.json").read_text())["x"] == "\ud83d"


def test_it_is_said_once(speakers, plan):
    with pytest.raises(RecipeError, match="says a chat template too"):
        plan(MERGEKIT + "chat_template: chatml\noutput: {chat_template: llama3}\n")


def test_without_a_tokenizer_it_is_said_and_nothing_written(model, plan):
    for name in "abc":
        model(name, config={})
    assert any(
        "no chat template is written" in n for n in plan(MERGEKIT + "chat_template: chatml\n").notes
    )


def test_it_is_part_of_the_plan(speakers, plan):
    texts = ["", "chat_template: chatml\n", "chat_template: auto\n"]
    hashes = {plan(MERGEKIT + text).hash for text in texts}
    assert len(hashes) == 3
    before = plan(MERGEKIT + texts[2])
    (speakers / "b/tokenizer_config.json").write_text('{"chat_template": "{{ 8 }}"}')
    assert plan(MERGEKIT + texts[2]).hash != before.hash


def test_a_name_that_nobody_knows(speakers, plan):
    with pytest.raises(RecipeError, match="unknown chat template 'chatm'; did you mean 'chatml'"):
        plan(MERGEKIT + "chat_template: chatm\n")
    with pytest.raises(RecipeError, match="expected auto, alpaca"):
        plan(MERGEKIT + "chat_template: 3\n")


def test_transformers_renders_it(speakers, made):
    transformers = library("transformers")
    made(MERGEKIT + "chat_template: chatml\n")
    loaded = transformers.AutoTokenizer.from_pretrained(speakers / "out")
    messages = [{"role": "user", "content": "one two"}]
    text = loaded.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == chatml(messages, prompt=True)
    assert loaded.get_vocab() == tokenizer(["<unk>", "one", "two"])["model"]["vocab"]
