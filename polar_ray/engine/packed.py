"""A model of transformers run over packed rows: its own classes, with attention that knows what belongs together.

On CUDA the forwards are neither captured in graphs nor compiled as a whole. No two packed rows have the same shapes, so
that each would need a graph, or a recompilation, of its own; and with tens of thousands of tokens to a forward a layer
takes milliseconds, while launching its kernels takes the host a fraction of that, beside the device. Nothing in a
forward makes the host wait for the device (all sizes are known from the layout), so the device never runs dry.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AttentionInterface, PreTrainedModel

from polar_ray.engine.fused import DECODER_LAYERS
from polar_ray.engine.kernels import Kernels
from polar_ray.engine.row import Row
from polar_ray.engine.swaps import Swap, find_swaps
from polar_ray.engine.transfer import to_device

ATTENTION = "polar_ray_packed"
"""The name under which ``_attention`` is registered with transformers."""


class PackedModel:
    """Runs a backbone over packed rows.

    Models whose layers are in ``DECODER_LAYERS`` get faster parts and skip what the last layer need not compute. All
    others run as they are, through transformers' attention interface.

    Attributes:
        fused: Whether the model has faster parts.
    """

    def __init__(self, backbone: PreTrainedModel, kernels: Kernels | None) -> None:
        self._backbone = backbone
        self._swaps: list[Swap] = []
        layers = dict(backbone.named_children()).get("layers")
        if isinstance(layers, torch.nn.ModuleList) and type(layers[0]).__name__ in DECODER_LAYERS:
            self._swaps = find_swaps(backbone, kernels)
        self.fused = bool(self._swaps)
        AttentionInterface.register(ATTENTION, _attention)

    def depends_on_longest(self, max_positions: int) -> bool:
        """Whether positions depend on the longest sequence of a forward, so that sequences cannot share one.

        Rotary frequencies of the kind ``longrope`` change with the longest sequence, those of the kind ``dynamic``
        where it is beyond the positions that the model was trained with.

        Args:
            max_positions: The longest sequence that the model is given.
        """
        config = self._backbone.config
        rope = config.to_dict().get("rope_parameters") or {}
        # One set of parameters, or one for each kind of layer.
        kinds = {part.get("rope_type") for part in (rope, *rope.values()) if isinstance(part, dict)}
        return "longrope" in kinds or ("dynamic" in kinds and max_positions > config.max_position_embeddings)

    def read(self, row: Row) -> torch.Tensor:
        """Returns the hidden states ``[read-outs, hidden]`` after the final norm."""
        device = row.device
        ids = to_device(row.layout.ids, device)[None]
        positions = to_device(row.layout.positions, device)[None]
        with self._in_place():
            hidden: torch.Tensor = self._backbone(
                input_ids=ids, position_ids=positions, attention_mask=None, use_cache=False, row=row
            ).last_hidden_state[0]
        return hidden if self.fused else hidden[row.read_rows]

    @contextmanager
    def _in_place(self) -> Iterator[None]:
        config = self._backbone.config
        before = config._attn_implementation
        config._attn_implementation = ATTENTION
        for swap in self._swaps:
            setattr(swap.parent, swap.name, swap.fused)
        try:
            yield
        finally:
            for swap in reversed(self._swaps):
                setattr(swap.parent, swap.name, swap.native)
            config._attn_implementation = before


def _attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    *,
    row: Row,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention as transformers' interface has it: ``[1, heads, tokens, dim]`` in, ``[1, tokens, heads, dim]`` out."""
    keys, values = row.all_keys(module.layer_idx, key[0].transpose(0, 1), value[0].transpose(0, 1))
    out = row.attend(
        query[0].transpose(0, 1).contiguous(),
        keys.contiguous(),
        values.contiguous(),
        scale=query.shape[-1] ** -0.5 if scaling is None else scaling,
        softcap=softcap,
        window=sliding_window,
    )
    return out[None], None
