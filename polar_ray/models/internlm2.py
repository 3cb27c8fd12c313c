"""InternLM2 reward checkpoints (POLAR, internlm2-*-reward) as transformers' own Llama.

InternLM2 is Llama with other names and with query, key and value in one matrix. The map below is that of
InternLM's own conversion (InternLM/InternLM, ``tools/convert2llama.py``):

=====================================  ====================================================
InternLM2                              Llama
=====================================  ====================================================
model.tok_embeddings.weight            embed_tokens.weight
model.layers.N.attention.wqkv.weight   layers.N.self_attn.{q,k,v}_proj.weight
model.layers.N.attention.wo.weight     layers.N.self_attn.o_proj.weight
model.layers.N.feed_forward.w1.weight  layers.N.mlp.gate_proj.weight
model.layers.N.feed_forward.w3.weight  layers.N.mlp.up_proj.weight
model.layers.N.feed_forward.w2.weight  layers.N.mlp.down_proj.weight
model.layers.N.attention_norm.weight   layers.N.input_layernorm.weight
model.layers.N.ffn_norm.weight         layers.N.post_attention_layernorm.weight
model.norm.weight                      norm.weight
v_head.weight                          the head, in float32
=====================================  ====================================================

The rows of ``wqkv`` are grouped by key-value head: for each, the queries that share it, its key, its value.
"""

import re
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaModel

from polar_ray.errors import CheckpointError
from polar_ray.models.adapter import Adapter
from polar_ray.models.checkpoint import read_tensors
from polar_ray.models.checkpoint_size import check_numbers, check_parts
from polar_ray.models.damage import damage_of
from polar_ray.models.dtype import TORCH_DTYPES, DType
from polar_ray.models.internlm2_tokens import read_internlm2_config
from polar_ray.models.loaded import LoadedModel, exact_attention, linear_head

_TOP = {"model.tok_embeddings.weight": "embed_tokens.weight", "model.norm.weight": "norm.weight"}
_LAYER = {
    "attention.wo.weight": "self_attn.o_proj.weight",
    "feed_forward.w1.weight": "mlp.gate_proj.weight",
    "feed_forward.w3.weight": "mlp.up_proj.weight",
    "feed_forward.w2.weight": "mlp.down_proj.weight",
    "attention_norm.weight": "input_layernorm.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
}
_WQKV = "attention.wqkv.weight"
_HEAD = "v_head.weight"


def load_internlm2_reward(folder: Path, dtype: DType, adapter: Adapter | None = None) -> LoadedModel:
    """Loads an ``InternLM2ForRewardModel`` checkpoint; the backbone in ``dtype``, the head in float32.

    Args:
        folder: The checkpoint.
        dtype: The backbone's dtype.
        adapter: Merged into the checkpoint's tensors. Its modules have the names of the original code
            (``model.layers.0.attention.wqkv``), so the rows of an update to ``wqkv`` are split like its own.

    Raises:
        CheckpointError: A key or a tensor is missing, unexpected or of the wrong shape, the config asks for something
            that is not known of these models, or the adapter belongs to another model.
    """
    with damage_of(folder):
        return _load(folder, dtype, adapter)


def _load(folder: Path, dtype: DType, adapter: Adapter | None) -> LoadedModel:
    config = read_internlm2_config(folder)
    check_parts(folder, config)
    llama = llama_config(config, folder)
    check_numbers(folder, sum(map(prod, expected_shapes(llama).values())))
    if adapter is not None:
        adapter.check(expected_shapes(llama))
    tensors = {
        name: (tensor if adapter is None else adapter.merged(name, tensor)).to(_dtype_of(name, dtype))
        for name, tensor in read_tensors(folder)
    }
    _check_keys(tensors, expected_shapes(llama), folder)
    head = linear_head(tensors.pop(_HEAD))
    with torch.device("meta"):
        backbone = LlamaModel(llama)
    backbone.load_state_dict(_as_llama(tensors, llama), strict=True, assign=True)
    # The rotary frequencies are computed, not loaded, and so were left on the meta device.
    backbone.rotary_emb = type(backbone.rotary_emb)(config=llama)
    return LoadedModel(backbone.requires_grad_(False).eval(), head, llama.vocab_size, llama.max_position_embeddings)


def llama_config(config: Mapping[str, Any], folder: Path) -> LlamaConfig:
    """Returns the config of the Llama that computes the same.

    Dynamic NTK scaling of the rotary frequencies acts on sequences beyond ``max_position_embeddings`` only, and the
    original keeps the stretched frequencies for all that it scores afterwards. It is left out here, and such sequences
    are refused by the engine; POLAR-7B's limit of 262,144 is far beyond what is scored.

    Raises:
        CheckpointError: The config asks for something else that is not known of these models.
    """
    # Older files say "type" where newer ones say "rope_type".
    scaling = config.get("rope_scaling") or {}
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    unknown = {
        "rope_scaling": None if kind in ("default", "dynamic") else scaling,
        "bias": config.get("bias") or None,
        "hidden_act": config["hidden_act"] if config.get("hidden_act", "silu") != "silu" else None,
    }
    for name, value in unknown.items():
        if value is not None:
            raise CheckpointError(
                f"{folder}: config.json has {name} {value!r}, which no InternLM2 reward model is known to have, so its "
                "scores could not be trusted. Use the original POLAR or internlm2-*-reward files."
            )
    try:
        llama = LlamaConfig(
            vocab_size=config["vocab_size"],
            hidden_size=config["hidden_size"],
            intermediate_size=config["intermediate_size"],
            num_hidden_layers=config["num_hidden_layers"],
            num_attention_heads=config["num_attention_heads"],
            num_key_value_heads=config["num_key_value_heads"],
            max_position_embeddings=config["max_position_embeddings"],
            rms_norm_eps=config["rms_norm_eps"],
            rope_parameters={"rope_type": "default", "rope_theta": float(config["rope_theta"])},
            attention_bias=False,
            mlp_bias=False,
            attention_dropout=0.0,
            pad_token_id=None,
        )
    except KeyError as error:
        raise CheckpointError(f"{folder}: config.json lacks {error}. Download the original config.json.") from error
    llama._attn_implementation = exact_attention(llama)
    return llama


def expected_shapes(llama: LlamaConfig) -> dict[str, tuple[int, ...]]:
    """Returns the shape of each tensor that an InternLM2 reward checkpoint of this size has, by its name."""
    hidden, inner = llama.hidden_size, llama.intermediate_size
    head_dim = hidden // llama.num_attention_heads
    qkv_rows = (llama.num_attention_heads + 2 * llama.num_key_value_heads) * head_dim
    layer = {
        _WQKV: (qkv_rows, hidden),
        "attention.wo.weight": (hidden, hidden),
        "feed_forward.w1.weight": (inner, hidden),
        "feed_forward.w3.weight": (inner, hidden),
        "feed_forward.w2.weight": (hidden, inner),
        "attention_norm.weight": (hidden,),
        "ffn_norm.weight": (hidden,),
    }
    return {
        "model.tok_embeddings.weight": (llama.vocab_size, hidden),
        "model.norm.weight": (hidden,),
        _HEAD: (1, hidden),
    } | {
        f"model.layers.{number}.{name}": shape
        for number in range(llama.num_hidden_layers)
        for name, shape in layer.items()
    }


def _dtype_of(name: str, dtype: DType) -> torch.dtype:
    return torch.float32 if name == _HEAD else TORCH_DTYPES[dtype]


def _check_keys(tensors: Mapping[str, torch.Tensor], shapes: Mapping[str, tuple[int, ...]], folder: Path) -> None:
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    wrong = {name: found[name] for name in found.keys() & shapes.keys() if found[name] != shapes[name]}
    problems = {
        "missing": sorted(shapes.keys() - found.keys()),
        "unexpected": sorted(found.keys() - shapes.keys()),
        "of the wrong shape": [f"{name} {shape} instead of {shapes[name]}" for name, shape in sorted(wrong.items())],
    }
    told = [f"{kind}: {_listed(names)}" for kind, names in problems.items() if names]
    if told:
        raise CheckpointError(
            f"The tensors in {folder} are not those of an InternLM2 reward model. {'; '.join(told)}. Use the model's "
            "original files; a language model without v_head, or a LoRA adapter, cannot score."
        )


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"


def _as_llama(tensors: dict[str, torch.Tensor], llama: LlamaConfig) -> dict[str, torch.Tensor]:
    mapped = {}
    for name in list(tensors):
        tensor = tensors.pop(name)  # Popped, so that no tensor is held twice.
        if name in _TOP:
            mapped[_TOP[name]] = tensor
            continue
        match = re.fullmatch(r"model\.layers\.(\d+)\.(.+)", name)
        assert match is not None
        layer, part = f"layers.{match[1]}.", match[2]
        if part == _WQKV:
            for projection, weight in zip("qkv", split_wqkv(tensor, llama), strict=True):
                mapped[f"{layer}self_attn.{projection}_proj.weight"] = weight
        else:
            mapped[layer + _LAYER[part]] = tensor
    return mapped


def split_wqkv(wqkv: torch.Tensor, llama: LlamaConfig) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Splits ``[(heads + 2 * kv_heads) * head_dim, hidden]`` into the query, key and value matrices."""
    kv_heads = llama.num_key_value_heads
    shared_by = llama.num_attention_heads // kv_heads
    head_dim = llama.hidden_size // llama.num_attention_heads
    # [kv_heads, the queries, the key and the value of each, head_dim, hidden]
    grouped = wqkv.view(kv_heads, shared_by + 2, head_dim, llama.hidden_size)
    query, key, value = grouped[:, :shared_by], grouped[:, -2], grouped[:, -1]
    return (
        query.reshape(-1, llama.hidden_size),
        key.reshape(-1, llama.hidden_size),
        value.reshape(-1, llama.hidden_size),
    )
