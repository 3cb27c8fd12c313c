"""Which parts of a model are replaced while a packed row goes through it."""

from dataclasses import dataclass
from typing import Any

import torch

from polar_ray.engine.fused import DECODER_LAYERS, FusedAttention, FusedMLP, FusedNorm, LastLayer
from polar_ray.engine.kernels import Kernels
from polar_ray.engine.norm import OnePassNorm
from polar_ray.engine.products import ACTIVATIONS
from polar_ray.engine.wide import WideEmbedding, WideLayer


@dataclass(frozen=True)
class Swap:
    """One part that takes the place of a native module while a packed row goes through a model."""

    parent: torch.nn.Module
    name: str
    native: torch.nn.Module
    fused: torch.nn.Module


def find_swaps(backbone: Any, kernels: Kernels | None) -> list[Swap]:
    """Returns the parts that can be replaced, in order; none for a model that is not of ``DECODER_LAYERS``.

    Args:
        backbone: A base model of transformers.
        kernels: None leaves the parts that are only faster with them.
    """
    layers = list(backbone.layers.named_children())
    kind = DECODER_LAYERS[type(layers[0][1]).__name__]
    config = backbone.config
    # The two names under which configs have it.
    activation = config.to_dict().get("hidden_activation") or config.hidden_act
    swaps: list[Swap] = []
    last: Any
    # In float32 there is nothing to widen.
    wide = kernels is not None and backbone.dtype == torch.bfloat16
    if wide:
        swaps.append(Swap(backbone, "embed_tokens", backbone.embed_tokens, WideEmbedding(backbone.embed_tokens)))
    for name, layer in layers:
        last = layer
        attention = FusedAttention(layer.self_attn, kind, config.rms_norm_eps, kernels)
        if not wide:
            swaps.append(Swap(layer, "self_attn", layer.self_attn, attention))
        if kernels is None:
            if not kind.plus_one and layer.input_layernorm.weight.is_cuda:
                swaps += [
                    Swap(layer, name, norm, OnePassNorm(norm, config.rms_norm_eps)) for name, norm in _norms(layer)
                ]
            continue
        mlp = FusedMLP(layer.mlp, activation, kernels) if activation in ACTIVATIONS else layer.mlp
        norms = {name: FusedNorm(norm, config.rms_norm_eps, kind.plus_one, kernels) for name, norm in _norms(layer)}
        if wide:
            last = WideLayer(layer, attention, norms, mlp, kernels)
            swaps.append(Swap(backbone.layers, name, layer, last))
            continue
        swaps.append(Swap(layer, "mlp", layer.mlp, mlp))
        swaps += [Swap(layer, part, norm, norms[part]) for part, norm in _norms(layer)]
    return [*swaps, Swap(backbone.layers, name, layer, LastLayer(last, attention))]


def _norms(layer: torch.nn.Module) -> list[tuple[str, torch.nn.Module]]:
    return [(name, child) for name, child in layer.named_children() if type(child).__name__.endswith("RMSNorm")]
