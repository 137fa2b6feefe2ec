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
    "no base": (
        HEAD + "merge_method: ties\n",
        "1: ties merges changes from a common base; it needs `base_model:`",
    ),
    "a base that would be merged": (
        HEAD + "merge_method: linear\nbase_model: c\n",
        "3: linear has no base",
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
    "a number that is none": (
        HEAD + "merge_method: linear\nparameters: {weight: '0,5'}\n",
        "3: .*'0,5'",
    ),
    "a parameter of another program": (
        HEAD + "merge_method: linear\nparameters: {int_space: cs}\n",
        "3: unknown parameter 'int_space'. Allowed here: weight, normalize. mergekit ignores it",
    ),
    "a parameter with parts": (
        HEAD + "merge_method: ties\nbase_model: o\nparameters: {dare: {drop_rate: 0.9}}\n",
        "4: unknown parameter 'dare'",
    ),
    "a dtype among the parameters": (
        HEAD + "merge_method: linear\nparameters: {dtype: bfloat16}\n",
        "3: 'dtype' is no parameter, and mergekit ignores it here; write it at the top",
    ),
    "a weight beside its model": (
        "models:\n- model: a\n  weight: 1\nparameters: {weight: 2}\nmerge_method: linear\n",
        "3: weight: mergekit ignores this parameter here; write it .* under `parameters:`",
    ),
    "a parameter at the top": (
        HEAD + "merge_method: sce\nbase_model: o\nselect_topk: 0.2\n",
        "4: select_topk: mergekit ignores this parameter here",
    ),
    "a revision beside its model": (
        "slices:\n- sources:\n  - model: a\n    revision: v0\n    layer_range: [0, 2]\n"
        "merge_method: passthrough\n",
        "4: revision: mergekit ignores this key; write `model: NAME@REVISION`",
    ),
    "a method of one slice": (
        "slices:\n- sources: [{model: a, layer_range: [0, 2]}]\n  merge_method: linear\n"
        "merge_method: passthrough\n",
        "3: merge_method: mergekit ignores this key here; all slices are merged by one method",
    ),
    "bases of slices": (
        "slices:\n- base_model: a\n"
        "  sources: [{model: a, layer_range: [0, 1]}, {model: b, layer_range: [0, 1]}]\n"
        "- base_model: b\n"
        "  sources: [{model: a, layer_range: [1, 2]}, {model: b, layer_range: [1, 2]}]\n"
        "merge_method: ties\nparameters: {weight: 1}\n",
        "4: a slice of ties cannot have a base of its own",
    ),
    "experts": (
        "base_model: a\ngate_mode: hidden\nexperts: [{source_model: b}]\n",
        "1: this is a file of mergekit-moe",
    ),
    "experts as a method": (
        "merge_method: moe\nbase_model: a\nexperts: [{source_model: b}]\n",
        "1: this is a file of mergekit-moe",
    ),
    "a search": (
        "genome: {models: [a, b], merge_method: dare_ties, base_model: c}\ntasks: [{name: x}]\n",
        "1: this is a file of mergekit-evolve, which searches for a recipe",
    ),
    "no method": (
        "models: [{model: a}]\nbase_model: b\n",
        "1: a recipe of mergekit needs the key 'merge_method'",
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
