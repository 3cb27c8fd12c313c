"""A model that is ready to score: a backbone and a head."""

from dataclasses import dataclass

import torch
from transformers import PreTrainedConfig, PreTrainedModel


@dataclass(frozen=True)
class LoadedModel:
    """A causal backbone and the linear head that reads a reward off its last position.

    Attributes:
        backbone: A base model class of transformers such as ``LlamaModel``, in eval mode, its weights in the
            dtype that it runs in. Its ``last_hidden_state`` has gone through the final norm.
        head: float32, from ``[hidden]`` to ``[labels]``.
        vocab_size: Ids are below it.
        max_positions: The longest sequence, in tokens, that the backbone can be given.
    """

    backbone: PreTrainedModel
    head: torch.nn.Linear
    vocab_size: int
    max_positions: int

    @property
    def labels(self) -> int:
        """Outputs of the head."""
        return self.head.out_features


def exact_attention(config: PreTrainedConfig) -> str:
    """Returns the attention implementation of transformers that computes what the model was trained with.

    Gemma 2 caps its attention scores (``attn_logit_softcapping``), which ``sdpa`` cannot do, so it takes ``eager``.
    """
    return "eager" if config.to_dict().get("attn_logit_softcapping") is not None else "sdpa"


def linear_head(weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.nn.Linear:
    """Returns a head in float32 for a weight ``[labels, hidden]`` and a bias ``[labels]``."""
    labels, hidden = weight.shape
    head = torch.nn.Linear(hidden, labels, bias=bias is not None, device="meta")
    tensors = {"weight": weight.float()} | ({} if bias is None else {"bias": bias.float()})
    head.load_state_dict(tensors, assign=True)
    return head.requires_grad_(False).eval()
