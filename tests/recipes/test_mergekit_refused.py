"""What of mergekit's YAML is refused, and what is said of it."""

from pathlib import Path

import pytest

from conjoin.errors import RecipeError
from conjoin.recipes import read_recipe

HEAD = "models: [{model: a, parameters: {weight: 1}}, {model: b, parameters: {weight: 1}}]\n"
SLERP = "models: [{model: a}, {model: b}]\nmerge_method: slerp\nbase_model: a\n"

# What mergekit takes without a word, or fails at later.
REFUSED = {
    "densty": (
        HEAD + "merge_method: ties\nbase_model: o\nparameters: {densty: 0.2}\n",
        "4: unknown parameter 'densty'; did you mean 'density'",
    ),
    "lamda": (
        HEAD + "merge_method: ties\nbase_model: o\nparameters: {lamda: 2}\n",
        "4: unknown parameter 'lamda'; did you mean 'lambda'",
    ),
    "out_dtpye": (HEAD + "merge_method: linear\nout_dtpye: float16\n", "3: .*mean 'out_dtype'"),
    "parametres": (HEAD + "merge_method: linear\nparametres: {}\n", "3: .*mean 'parameters'"),
    "weights that cancel": (
        "models: [{model: a, parameters: {weight: 1}}, {model: b, parameters: {weight: -1}}]\n"
        "merge_method: linear\n",
        "1: the weights .* sum to zero",
    ),
    "t of one model": (
        "models: [{model: a, parameters: {t: 0.3}}, {model: b}]\nmerge_method: slerp\n"
        "base_model: a\nparameters: {t: 0.5}\n",
        "1: 't' is for all models; mergekit ignores it here",
    ),
    "density of 100": (
        HEAD + "merge_method: ties\nbase_model: o\nparameters: {density: 100}\n",
        "4: .*from 0 to 1",
    ),
    "no t of nearswap": (
        "models: [{model: a}]\nmerge_method: nearswap\nbase_model: o\n",
        "1: 'a' has no 't', which nearswap needs",
    ),
    "a step that is no whole number": (
        "models: [{model: a}, {model: b}]\nmerge_method: karcher\nparameters: {max_iter: 2.5}\n",
        "3: .*max_iter.*whole number",
    ),
    "a base of karcher": (
        "models: [{model: a}, {model: b}]\nmerge_method: karcher\nbase_model: o\n",
        "3: karcher has no base; mergekit would merge this model too",
    ),
    "three models of nuslerp": (
        HEAD.replace("]\n", ", {model: c, parameters: {weight: 1}}]\n")
        + "merge_method: nuslerp\nbase_model: o\n",
        "1: nuslerp merges exactly 2 models",
    ),
    "gamma of the method alone": (
        HEAD + "merge_method: breadcrumbs\nbase_model: o\nparameters: {gama: 0.1}\n",
        "4: unknown parameter 'gama'; did you mean 'gamma'",
    ),
    "a method mistyped": (HEAD + "merge_method: tise\n", "2: unknown method 'tise'.*'ties'"),
    "no weight": ("models: [{model: a}]\nmerge_method: linear\n", "1: 'a' has no 'weight'"),
    "a weight for some tensors": (
        "models: [{model: a, parameters: {weight: {filter: x, value: 1}}}]\nmerge_method: linear\n",
        "1: 'a' has, for tensors that no filter matches, no 'weight'",
    ),
    "no t": (SLERP, "1: '[ab]' has no 't', which slerp needs"),
    "no base": (HEAD + "merge_method: ties\n", "1: ties merges changes from a common base"),
    "a base that would be merged": (
        HEAD + "merge_method: linear\nbase_model: c\n",
        "3: linear has no base",
    ),
    "a tokenizer of nobody": (
        HEAD + "merge_method: linear\ntokenizer_source: c\n",
        "3: 'c' is none of",
    ),
    "a tokenizer of a base that is not there": (
        HEAD + "merge_method: linear\ntokenizer: {source: base}\n",
        "3: 'base' is chosen, but there is no `base_model:`",
    ),
    "chat_template": (
        HEAD + "merge_method: linear\nchat_template: chatm\n",
        "3: unknown chat template 'chatm'",
    ),
    "models and slices": (HEAD + "slices: []\nmerge_method: linear\n", ".*found"),
    "several modules": (
        "modules: {a: {models: [{model: a}]}, b: {models: [{model: b}]}}\nmerge_method: linear\n",
        "1: several modules in one recipe",
    ),
    "residual_weight": (
        "slices: [{sources: [{model: a, layer_range: [0, 2]}], residual_weight: 1}]\n"
        "merge_method: passthrough\n",
        "1: residual_weight: mergekit ignores",
    ),
    "slices of other lengths": (
        "slices: [{sources: [{model: a, layer_range: [0, 2]}, {model: b, layer_range: [0, 3]}]}]\n"
        "merge_method: linear\nparameters: {weight: 1}\n",
        "1: .*equally many layers",
    ),
    "a slice without the base": (
        "slices: [{sources: [{model: a, layer_range: [0, 2]}]}]\n"
        "merge_method: task_arithmetic\nbase_model: o\nparameters: {weight: 1}\n",
        "1: the base 'o' has to be one of the sources",
    ),
    "several documents": (HEAD + "merge_method: linear\n---\n" + HEAD, "3: a second document"),
    "a value that is text": (
        HEAD + "merge_method: linear\nparameters: {normalize: x}\n",
        "3: .*expected a num",
    ),
    "an empty gradient": (
        HEAD + "merge_method: linear\nparameters: {weight: []}\n",
        "3: .*expected a num",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str, tmp_path: Path):
    text, message = REFUSED[case]
    path = tmp_path / "mergekit.yml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError, match=rf"mergekit.yml:{message}"):
        read_recipe(path)
