"""Small random members of families of Hugging Face's transformers, with all that makes them."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from zoo_models.torchvision_schema import declare_operators

NOTES: Mapping[str, str] = {}

VOCABULARY = 97

TEXT = {"vocab_size": VOCABULARY, "use_cache": False}
SMALL = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
WIDE = {"intermediate_size": 80}
GROUPED = {**TEXT, **SMALL, **WIDE, "num_key_value_heads": 2, "max_position_embeddings": 64}
BARE = {key: value for key, value in TEXT.items() if key != "use_cache"}
IMAGE = {"image_size": 32, "patch_size": 8}
WHISPER = {
    "vocab_size": VOCABULARY, "d_model": 48, "encoder_layers": 2, "encoder_attention_heads": 4,
    "encoder_ffn_dim": 80, "max_source_positions": 20, "num_mel_bins": 10, "use_cache": False,
    "decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 80, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1,
}  # fmt: skip
CLIP = {
    "text_config": {**BARE, **SMALL, **WIDE, "max_position_embeddings": 16, "eos_token_id": 96},
    "vision_config": {**SMALL, **WIDE, **IMAGE},
    "projection_dim": 40,
}
BART = {
    **TEXT, "d_model": 48, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 80, "decoder_ffn_dim": 80,
    "max_position_embeddings": 64,
}  # fmt: skip
T5 = {
    **TEXT, "d_model": 48, "d_kv": 12, "d_ff": 80, "num_layers": 2, "num_decoder_layers": 2,
    "num_heads": 4,
}  # fmt: skip

MODELS: Mapping[str, tuple[str, str, Mapping[str, Any], tuple[str, ...]]] = {
    # name: (class of the model, class of its configuration, arguments, inputs)
    "bert": ("BertForSequenceClassification", "BertConfig", {**BARE, **SMALL, **WIDE},
             ("tokens", "mask")),
    "roberta": ("RobertaForMaskedLM", "RobertaConfig", {**BARE, **SMALL, **WIDE}, ("tokens",)),
    "distilbert": ("DistilBertForMaskedLM", "DistilBertConfig",
                   {**BARE, "dim": 48, "n_layers": 2, "n_heads": 4, "hidden_dim": 80}, ("tokens",)),
    "albert": ("AlbertModel", "AlbertConfig", {**BARE, **SMALL, **WIDE, "embedding_size": 20},
               ("tokens",)),
    "electra": ("ElectraModel", "ElectraConfig", {**BARE, **SMALL, **WIDE, "embedding_size": 20},
                ("tokens",)),
    "deberta_v2": ("DebertaV2Model", "DebertaV2Config",
                   {**BARE, **SMALL, **WIDE, "relative_attention": True,
                    "pos_att_type": ["p2c", "c2p"]},
                   ("tokens",)),
    "gpt2": ("GPT2LMHeadModel", "GPT2Config",
             {**TEXT, "n_embd": 48, "n_layer": 2, "n_head": 4, "n_positions": 64}, ("tokens",)),
    "gpt_neox": ("GPTNeoXForCausalLM", "GPTNeoXConfig", {**TEXT, **SMALL, **WIDE}, ("tokens",)),
    "opt": ("OPTForCausalLM", "OPTConfig",
            {**TEXT, **SMALL, "ffn_dim": 80, "word_embed_proj_dim": 48,
             "max_position_embeddings": 64}, ("tokens",)),
    "llama": ("LlamaForCausalLM", "LlamaConfig", GROUPED, ("tokens",)),
    "mistral": ("MistralForCausalLM", "MistralConfig", {**GROUPED, "sliding_window": 4},
                ("tokens",)),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", GROUPED, ("tokens",)),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Config", {**GROUPED, "head_dim": 12}, ("tokens",)),
    "gemma": ("GemmaForCausalLM", "GemmaConfig", {**GROUPED, "head_dim": 12}, ("tokens",)),
    "phi": ("PhiForCausalLM", "PhiConfig", GROUPED, ("tokens",)),
    "mixtral": ("MixtralForCausalLM", "MixtralConfig",
                {**GROUPED, "num_local_experts": 4, "sliding_window": None},
                ("tokens", "experts in batches")),
    "mamba": ("MambaForCausalLM", "MambaConfig",
              {**TEXT, "hidden_size": 48, "num_hidden_layers": 2, "state_size": 8}, ("tokens",)),
    "mamba2": ("Mamba2ForCausalLM", "Mamba2Config",
               {**TEXT, "hidden_size": 48, "num_hidden_layers": 2, "state_size": 8, "num_heads": 6,
                "head_dim": 16, "n_groups": 2, "chunk_size": 4}, ("tokens",)),
    "t5": ("T5ForConditionalGeneration", "T5Config", {**T5, "feed_forward_proj": "gated-gelu"},
           ("tokens", "decoder")),
    "t5_encoder": ("T5EncoderModel", "T5Config", T5, ("tokens",)),
    "bart": ("BartForConditionalGeneration", "BartConfig", BART, ("tokens", "decoder")),
    "whisper_encoder": ("WhisperModel", "WhisperConfig", WHISPER, ("sound", "encoder alone")),
    "whisper": ("WhisperModel", "WhisperConfig", WHISPER, ("sound", "decoder")),
    "wav2vec2": ("Wav2Vec2Model", "Wav2Vec2Config",
                 {**BARE, **SMALL, **WIDE, "conv_dim": [24, 24], "conv_stride": [5, 2],
                  "conv_kernel": [10, 3], "num_feat_extract_layers": 2,
                  "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 4}, ("wave",)),
    "vit": ("ViTForImageClassification", "ViTConfig", {**SMALL, **WIDE, **IMAGE}, ("pixels",)),
    "deit": ("DeiTModel", "DeiTConfig", {**SMALL, **WIDE, **IMAGE}, ("pixels",)),
    "dinov2": ("Dinov2Model", "Dinov2Config", {**SMALL, **IMAGE}, ("pixels",)),
    "convnextv2": ("ConvNextV2Model", "ConvNextV2Config",
                   {"hidden_sizes": [16, 24, 32, 40], "depths": [1, 1, 2, 1]}, ("pixels",)),
    "segformer": ("SegformerForSemanticSegmentation", "SegformerConfig",
                  {"hidden_sizes": [16, 32, 40, 64], "depths": [1, 1, 1, 1],
                   "decoder_hidden_size": 48}, ("pixels",)),
    "clip": ("CLIPModel", "CLIPConfig", CLIP, ("tokens", "pixels")),
    "clip_text": ("CLIPTextModel", "CLIPTextConfig", CLIP["text_config"], ("tokens",)),
    "clip_vision": ("CLIPVisionModel", "CLIPVisionConfig", CLIP["vision_config"], ("pixels",)),
}  # fmt: skip

INPUTS: Mapping[str, tuple[str, Callable[[], Tensor]]] = {
    "tokens": ("input_ids", lambda: _tokens(7)),
    "mask": ("attention_mask", lambda: torch.tensor([[1] * 7, [1] * 5 + [0] * 2])),
    "decoder": ("decoder_input_ids", lambda: _tokens(5)),
    "pixels": ("pixel_values", lambda: torch.randn(2, 3, 32, 32)),
    "sound": ("input_features", lambda: torch.randn(2, 10, 40)),
    "wave": ("input_values", lambda: torch.randn(2, 400)),
}


def builds() -> Mapping[str, Callable[[], tuple[nn.Module, dict[str, Tensor]]]]:
    """Name the models, and how each is made."""
    return {name: partial(_build, name) for name in MODELS}


def _build(name: str) -> tuple[nn.Module, dict[str, Tensor]]:
    declare_operators()
    import transformers

    kind, configuration, arguments, wanted = MODELS[name]
    config = getattr(transformers, configuration)(**arguments)
    if "experts in batches" in wanted:  # other ways decide by values, or know no float64
        config._experts_implementation = "batched_mm"
    model = getattr(transformers, kind)(config)
    if "encoder alone" in wanted:
        model = model.encoder
    return model, {INPUTS[one][0]: INPUTS[one][1]() for one in wanted if one in INPUTS}


def _tokens(count: int) -> Tensor:
    return torch.randint(3, VOCABULARY, (2, count))
