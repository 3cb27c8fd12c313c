"""A LoRA adapter (arXiv 2106.09685) as tensors, and how they are merged into a model's.

A merged weight is ``W + scale * B @ A``, computed in float32 and rounded once, to the dtype that the model runs in.
Modules that were saved whole, such as the score head, replace the model's. Names are those of the model that was
trained, so that for InternLM2 they are the checkpoint's own, the joint ``wqkv`` included.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from polar_ray.errors import CheckpointError
from polar_ray.models.adapter_config import AdapterConfig
from polar_ray.models.checkpoint import adapter_weights, read_tensor_file

_PREFIX = "base_model.model."
_LORA = re.compile(r"(.+)\.lora_([AB])\.weight")


@dataclass(frozen=True)
class Adapter:
    """An adapter's settings and tensors.

    Attributes:
        config: The settings.
        updates: By module: ``A`` ``[rank, in_features]`` and ``B`` ``[out_features, rank]``.
        saved: Tensors that replace the model's, by the model's names, such as ``score.weight``.
    """

    config: AdapterConfig
    updates: Mapping[str, tuple[torch.Tensor, torch.Tensor]]
    saved: Mapping[str, torch.Tensor]

    @staticmethod
    def read(folder: Path) -> "Adapter":
        """Reads an adapter that PEFT saved.

        Raises:
            CheckpointError: A file is missing or damaged, the adapter is of a kind that cannot be merged, or its
                tensors are not those that its settings speak of.
        """
        config = AdapterConfig.read(folder)
        halves: dict[str, dict[str, torch.Tensor]] = {}
        saved: dict[str, torch.Tensor] = {}
        unexpected = []
        for name, tensor in read_tensor_file(adapter_weights(folder)):
            path = name.removeprefix(_PREFIX)
            if path == name:
                unexpected.append(name)
            elif (lora := _LORA.fullmatch(path)) and config.targets(lora[1]):
                halves.setdefault(lora[1], {})[lora[2]] = tensor
            elif config.saves(path.rpartition(".")[0]):
                saved[path] = tensor
            else:
                unexpected.append(name)
        if unexpected:
            raise CheckpointError(
                f"The adapter in {folder} has tensors that its adapter_config.json does not speak of, or whose kind is "
                f"not supported: {_some(unexpected)}. Merge it with PEFT's merge_and_unload()."
            )
        updates = {}
        for module, parts in halves.items():
            if parts.keys() != {"A", "B"}:
                raise CheckpointError(
                    f"The adapter in {folder} has half an update only of {module}. Download it again."
                )
            _check_rank(config, module, parts["A"], parts["B"])
            updates[module] = (parts["A"], parts["B"])
        return Adapter(config, updates, saved)

    def check(self, shapes: Mapping[str, tuple[int, ...]], *, transposed: frozenset[str] = frozenset()) -> None:
        """Checks that the adapter belongs to a model.

        Args:
            shapes: The shape of each tensor of the model, by name.
            transposed: Those of them that lie as ``[in_features, out_features]``.

        Raises:
            CheckpointError: It changes a tensor that the model does not have or that has another shape, or lacks one
                that its settings speak of.
        """
        where = f"The adapter in {self.config.folder} does not belong to this model: "
        remedy = f" It was trained on {self.config.base_model}; give that as model."
        own = {f"{module}.weight": (len(b), a.shape[1]) for module, (a, b) in self.updates.items()}
        own = {name: shape[::-1] if name in transposed else shape for name, shape in own.items()}
        changed = {**own, **{name: tuple(tensor.shape) for name, tensor in self.saved.items()}}
        if absent := sorted(changed.keys() - shapes.keys()):
            raise CheckpointError(f"{where}it changes {_some(absent)}, which the model does not have.{remedy}")
        if wrong := [
            f"{name} {shape} and not {shapes[name]}" for name, shape in changed.items() if shape != shapes[name]
        ]:
            raise CheckpointError(f"{where}its shapes are {_some(wrong)}.{remedy}")
        matrices = {name.removesuffix(".weight") for name, shape in shapes.items() if len(shape) == 2}
        missing = sorted(module for module in matrices - self.updates.keys() if self.config.targets(module))
        missing += sorted(name for name in shapes.keys() - self.saved.keys() if self.config.saves(_module_of(name)))
        if missing:
            raise CheckpointError(
                f"The adapter in {self.config.folder} lacks tensors that its adapter_config.json speaks of, for "
                f"{_some(missing)}. Download it again."
            )

    def merged(self, name: str, tensor: torch.Tensor, *, transposed: bool = False) -> torch.Tensor:
        """Returns what a tensor of the model becomes: in float32 where it is updated, else as it is given or saved.

        Args:
            name: Its name in the model.
            tensor: Its value.
            transposed: It lies as ``[in_features, out_features]``.
        """
        if name in self.saved:
            return self.saved[name]
        if (module := _module_of(name)) not in self.updates or not name.endswith(".weight"):
            return tensor
        a, b = self.updates[module]
        update = self.config.scale_of(module) * (b.float() @ a.float())
        return tensor.float() + (update.T if transposed else update)


def _check_rank(config: AdapterConfig, module: str, a: torch.Tensor, b: torch.Tensor) -> None:
    rank = config.rank_of(module)
    if a.dim() != 2 or b.dim() != 2 or a.shape[0] != rank or b.shape[1] != rank:
        raise CheckpointError(
            f"The adapter in {config.folder} should have rank {rank} at {module}, but its matrices have the shapes "
            f"{tuple(a.shape)} and {tuple(b.shape)}. Its adapter_config.json and its weights do not belong together."
        )


def _module_of(name: str) -> str:
    return name.rpartition(".")[0]


def _some(names: list[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
