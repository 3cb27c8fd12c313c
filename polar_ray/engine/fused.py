"""Parts of transformers' decoder layers that work on a packed row with fewer passes over memory.

A part takes the place of the native module that it is made from, computes the same from the same weights, and leaves
the layer, its residuals and its other modules as they are. What is not in ``DECODER_LAYERS`` is not replaced.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from polar_ray.engine.kernels import Kernels
from polar_ray.engine.linear import WideLinear, row_blocks
from polar_ray.engine.row import Row


@dataclass(frozen=True)
class DecoderLayer:
    """What is known of a decoder layer of transformers: ``x + attention(input_layernorm(x))``, then the MLP.

    Attributes:
        window: Returns the sliding window of its attention module, or None.
        softcap: Returns the cap of the attention's scores, or None.
        plus_one: Whether its norms multiply by ``1 + weight``.
        head_norms: Whether queries and keys go through a norm of their own.
    """

    window: Callable[[Any], int | None] = lambda attention: None
    softcap: Callable[[Any], float | None] = lambda attention: None
    plus_one: bool = False
    head_norms: bool = False


DECODER_LAYERS: dict[str, DecoderLayer] = {
    "LlamaDecoderLayer": DecoderLayer(),
    "MistralDecoderLayer": DecoderLayer(window=lambda attention: attention.config.sliding_window),
    "Qwen2DecoderLayer": DecoderLayer(window=lambda attention: attention.sliding_window),
    "Qwen3DecoderLayer": DecoderLayer(window=lambda attention: attention.sliding_window, head_norms=True),
    "GemmaDecoderLayer": DecoderLayer(plus_one=True),
    "Gemma2DecoderLayer": DecoderLayer(
        window=lambda attention: attention.sliding_window,
        softcap=lambda attention: attention.attn_logit_softcapping,
        plus_one=True,
    ),
}
"""The layers whose parts are replaced, by the name of their class."""


class FusedAttention(torch.nn.Module):
    """The attention of a layer, over a packed row."""

    def __init__(self, native: Any, kind: DecoderLayer, eps: float, kernels: Kernels | None) -> None:
        super().__init__()
        self.native = native
        self.query_norm: torch.nn.Module = torch.nn.Identity()
        self.key_norm: torch.nn.Module = torch.nn.Identity()
        if kind.head_norms:
            self.query_norm, self.key_norm = native.q_norm, native.k_norm
            if kernels is not None:
                self.query_norm = FusedNorm(native.q_norm, eps, kind.plus_one, kernels)
                self.key_norm = FusedNorm(native.k_norm, eps, kind.plus_one, kernels)
        self.layer = int(native.layer_idx)
        self.head_dim = int(native.head_dim)
        self.scale = float(native.scaling)
        self.kind = kind
        self.softcap = kind.softcap(native)
        self.kernels = kernels

    def keys(self, x: torch.Tensor, positions: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns keys with positions, and values, ``[tokens, kv_heads, dim]`` each, of ``x`` ``[tokens, hidden]``."""
        return self._rotated(self.native.k_proj, self.key_norm, x, positions), self._heads(self.native.v_proj(x))

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        row: Row,
        keys: tuple[torch.Tensor, torch.Tensor] | None = None,
        **_: Any,
    ) -> tuple[torch.Tensor, None]:
        """Returns ``[1, tokens, hidden]``, and no weights. The arguments are those of ``attended``, the first as
        ``[1, tokens, hidden]``.
        """
        return self.native.o_proj(self.attended(hidden_states[0], position_embeddings, row, keys))[None], None

    def attended(
        self,
        x: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        row: Row,
        keys: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Returns ``[tokens, heads * dim]``, before the projection back.

        Args:
            x: ``[tokens, hidden]``: all tokens, or the read-outs where there are ``keys``.
            position_embeddings: Cosines and sines, ``[1, tokens, dim]``.
            row: The row that they belong to.
            keys: All keys and values, where ``x`` are the read-outs alone.
        """
        query = self._rotated(self.native.q_proj, self.query_norm, x, position_embeddings)
        key, value = keys or row.all_keys(self.layer, *self.keys(x, position_embeddings))
        out = row.attend(
            query,
            key,
            value,
            scale=self.scale,
            softcap=self.softcap,
            # Asked each time, since the probe changes it.
            window=self.kind.window(self.native),
            reads_only=keys is not None,
        )
        return out.flatten(1)

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(len(x), -1, self.head_dim)

    def _rotated(
        self,
        projection: torch.nn.Module,
        norm: torch.nn.Module,
        x: torch.Tensor,
        positions: tuple[torch.Tensor, torch.Tensor],
    ) -> torch.Tensor:
        """Returns queries or keys with positions, ``[tokens, heads, dim]``."""
        cos, sin = positions[0][0], positions[1][0]
        if self.kernels is None:
            heads = norm(self._heads(projection(x)))
            first, second = heads.chunk(2, dim=-1)
            rotated: torch.Tensor = heads * cos[:, None] + torch.cat([-second, first], dim=-1) * sin[:, None]
            return rotated
        sizes = row_blocks(len(x))
        out: torch.Tensor | None = None
        start = 0
        for part, part_cos, part_sin in zip(*(torch.split(t, sizes) for t in (x, cos, sin)), strict=True):
            heads = self._heads(projection.exact(part) if isinstance(projection, WideLinear) else projection(part))
            heads = norm.exact(heads) if isinstance(norm, FusedNorm) else heads
            if out is None:
                alone = len(sizes) == 1 and heads.dtype == x.dtype
                out = heads if alone else x.new_empty(len(x), *heads.shape[1:])
            self.kernels.rotate(heads, part_cos.float(), part_sin.float(), out[start : start + len(part)])
            start += len(part)
        assert out is not None
        return out


class FusedMLP(torch.nn.Module):
    """The gated feed-forward part of a layer, in chunks of rows."""

    def __init__(self, native: Any, activation: str, kernels: Kernels) -> None:
        super().__init__()
        self.native = native
        self.activation = activation
        self.kernels = kernels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns ``down(activation(gate(x)) * up(x))`` for ``[1, tokens, hidden]``."""
        out = [self.native.down_proj(self.gated(rows)) for rows in torch.split(x[0], row_blocks(x.shape[1]))]
        return (out[0] if len(out) == 1 else torch.cat(out))[None]

    def gated(self, x: torch.Tensor) -> torch.Tensor:
        """Returns ``activation(gate(x)) * up(x)`` for ``[rows, hidden]``."""
        gate, up = self.native.gate_proj, self.native.up_proj
        if isinstance(gate, WideLinear) and isinstance(up, WideLinear):
            return gate.products.gated(x, gate.panels, up.panels, self.activation)
        return self.kernels.gate(gate(x), up(x), self.activation)


class FusedNorm(torch.nn.Module):
    """A root mean square norm in one pass."""

    def __init__(self, native: Any, eps: float, plus_one: bool, kernels: Kernels) -> None:
        super().__init__()
        self.native = native
        self.eps = eps
        self.plus_one = plus_one
        self.kernels = kernels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the norm of ``[..., dim]``."""
        return self.kernels.rms_norm(x.contiguous(), self.native.weight, self.eps, plus_one=self.plus_one)

    def exact(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the norm of ``[..., dim]`` in the dtype of ``x``, which may be float32 where the weight is not."""
        x = x.contiguous()
        return self.kernels.rms_norm(x, self.native.weight, self.eps, plus_one=self.plus_one, exact=True)


class LastLayer(torch.nn.Module):
    """A model's last layer, which gives the read-outs alone: of the other tokens it needs keys and values only."""

    def __init__(self, native: Any, attention: FusedAttention) -> None:
        super().__init__()
        self.native = native
        self.attention = attention

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        row: Row,
        **_: Any,
    ) -> torch.Tensor:
        """Returns ``[1, read-outs, hidden]`` for ``[1, tokens, hidden]``."""
        key, value = self.attention.keys(self.native.input_layernorm(hidden_states)[0], position_embeddings)
        keys = row.all_keys(self.attention.layer, key, value)
        cos, sin = position_embeddings
        reads = row.read_rows
        if len(reads) == 0:
            return hidden_states[:, :0]
        out: torch.Tensor = self.native(
            hidden_states[:, reads], position_embeddings=(cos[:, reads], sin[:, reads]), row=row, keys=keys
        )
        return out
