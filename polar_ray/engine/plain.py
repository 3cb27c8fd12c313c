"""A model of transformers run plainly: padded batches or single sequences, through its own attention."""

from collections.abc import Sequence

import numpy as np
import torch
from transformers import PreTrainedModel

from polar_ray.engine.transfer import to_device


@torch.inference_mode()
def read_plainly(backbone: PreTrainedModel, sequences: Sequence[np.ndarray], device: torch.device) -> torch.Tensor:
    """Returns the hidden states ``[N, hidden]`` after the final norm at the last tokens of one padded batch.

    Sequences are padded on the right and no mask is passed: in a causal model a token never attends to what follows
    it, so neither padding nor neighbours can reach a score. The hidden state is read at ``length - 1``, never searched
    for by a pad id.
    """
    # Any id pads: nothing that is read can see it.
    ids = np.zeros((len(sequences), max(len(row) for row in sequences)), np.int64)
    for place, row in enumerate(sequences):
        ids[place, : len(row)] = row
    last = to_device(np.array([len(row) - 1 for row in sequences]), device)
    hidden: torch.Tensor = backbone(
        input_ids=to_device(ids, device), attention_mask=None, use_cache=False
    ).last_hidden_state
    return hidden[torch.arange(len(sequences), device=device), last]
