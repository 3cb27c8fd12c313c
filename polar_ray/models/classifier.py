"""Loads sequence classifiers with one label: a causal backbone of transformers and a linear head named ``score``.

Only native classes are used; ``auto_map`` in a config, which points to code in the checkpoint, is ignored. Every
tensor of the checkpoint must have its place and every place its tensor: transformers itself would fill a missing
head with random numbers and drop tensors that it does not know, and both still give rewards.
"""

from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch
from safetensors import SafetensorError, safe_open
from transformers import CONFIG_MAPPING, AutoModelForSequenceClassification, PretrainedConfig
from transformers.pytorch_utils import Conv1D

from polar_ray.errors import CheckpointError
from polar_ray.models.adapter import Adapter
from polar_ray.models.checkpoint import ADAPTER_CONFIG, reading, weight_files
from polar_ray.models.checkpoint_size import check_numbers, check_parts
from polar_ray.models.classifier_config import FAMILIES, max_positions, read_classifier_config
from polar_ray.models.damage import damage_of
from polar_ray.models.dtype import TORCH_DTYPES, DType
from polar_ray.models.loaded import LoadedModel, exact_attention, linear_head

_OTHER_HEADS: dict[str, str] = {
    "weights.fc.": "They are the gate of a URM, which is not supported yet.",
    "gating.": "They are the gate of an ArmoRM or QRM, which are not supported yet.",
    "regression_layer.": "They are the head of an ArmoRM or QRM, which are not supported yet.",
    "v_head.": "They are a value head, which this scorer does not read.",
    "lm_head.": "They belong to a language model: the checkpoint was not saved as a classifier.",
}
_HEAD = "score.weight"
_LANGUAGE_HEAD = "lm_head.weight"


def load_classifier(folder: Path, dtype: DType, adapter: Adapter | None = None) -> LoadedModel:
    """Loads the classifier in a folder; the head is read from the file in float32 whatever the dtype.

    Args:
        folder: The checkpoint; a language model where the adapter brings the head.
        dtype: The backbone's dtype.
        adapter: Merged into the model, before it is rounded to ``dtype``.

    Raises:
        CheckpointError: The config is refused (see ``read_classifier_config``), a tensor is missing, has no place in
            the model, or has the wrong shape, or the adapter belongs to another model.
    """
    with damage_of(folder):
        return _load(folder, dtype, adapter)


def _load(folder: Path, dtype: DType, adapter: Adapter | None) -> LoadedModel:
    if (folder / ADAPTER_CONFIG).exists():
        # transformers would apply it where PEFT is installed, and not apply it where it is not.
        raise CheckpointError(
            f"{folder} holds a model and an {ADAPTER_CONFIG} too. If the adapter is merged already, remove "
            f"{ADAPTER_CONFIG}; if not, move it to a folder of its own and give that as adapter."
        )
    raw = read_classifier_config(folder, adapted=adapter is not None)
    check_parts(folder, raw)
    head_is_saved = adapter is not None and _HEAD in adapter.saved
    head = adapter.saved[_HEAD] if adapter is not None and head_is_saved else _read_head(folder)
    # num_labels is 1 by now, and a config without id2label has to be told.
    native = {key: value for key, value in raw.items() if key != "auto_map"} | {"num_labels": 1}
    config = CONFIG_MAPPING[raw["model_type"]].from_dict(native)
    check_numbers(folder, _described(config))
    try:
        model, report = AutoModelForSequenceClassification.from_pretrained(
            folder,
            config=config,
            dtype=TORCH_DTYPES[dtype] if adapter is None else _stored_dtype(folder),
            attn_implementation=exact_attention(config),
            trust_remote_code=False,
            # Reported below instead of raised halfway, so that the message names all of them.
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise CheckpointError(
            f"The weights in {folder} cannot be loaded as {FAMILIES[config.model_type]}: {error} "
            "Compare config.json with the weights, or download the model again."
        ) from error
    if head_is_saved:
        report["missing_keys"] = {name for name in report["missing_keys"] if name != _HEAD}
        report["unexpected_keys"] = {name for name in report["unexpected_keys"] if name != _LANGUAGE_HEAD}
    _check_report(folder, report)
    model.eval().requires_grad_(False)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    if adapter is not None:
        _merge(model, adapter, TORCH_DTYPES[dtype])
        head = adapter.merged(_HEAD, head)
    if head.shape != model.score.weight.shape:
        raise CheckpointError(
            f"{_HEAD} in {folder} has the shape {tuple(head.shape)} and not {tuple(model.score.weight.shape)}."
        )
    return LoadedModel(
        backbone=model.base_model,
        head=linear_head(head),
        vocab_size=config.vocab_size,
        max_positions=max_positions(raw),
    )


def _described(config: PretrainedConfig) -> int:
    """Returns how many numbers the classifier that a config describes has."""
    # On this device nothing is allocated.
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(config, trust_remote_code=False)
    return sum(parameter.numel() for parameter in model.parameters())


def _stored_dtype(folder: Path) -> torch.dtype:
    """Returns a dtype that holds a checkpoint's tensors without rounding: theirs, or float32 where it is not told."""
    stored: set[str] = set()
    for path in weight_files(folder):
        if path.suffix != ".safetensors":
            return torch.float32
        with safe_open(path, framework="pt") as tensors:
            stored |= {tensors.get_slice(name).get_dtype() for name in tensors.keys()}  # noqa: SIM118  (not a dict)
    return {"BF16": torch.bfloat16, "F16": torch.float16}.get("+".join(stored), torch.float32)


def _merge(model: torch.nn.Module, adapter: Adapter, dtype: torch.dtype) -> None:
    """Merges an adapter into a model and rounds all parameters to a dtype."""
    parameters = dict(model.named_parameters())
    # GPT-2's weights lie the other way round.
    transposed = frozenset(f"{name}.weight" for name, module in model.named_modules() if isinstance(module, Conv1D))
    adapter.check({name: tuple(tensor.shape) for name, tensor in parameters.items()}, transposed=transposed)
    for name, parameter in parameters.items():
        parameter.data = adapter.merged(name, parameter.data, transposed=name in transposed).to(dtype)


def _read_head(folder: Path) -> torch.Tensor:
    """Returns the head's weight as it is in the file."""
    names: set[str] = set()
    for path in weight_files(folder):
        with reading(path):
            if path.suffix == ".safetensors":
                with safe_open(path, framework="pt") as tensors:
                    stored = set(tensors.keys())
                    if _HEAD in stored:
                        head: torch.Tensor = tensors.get_tensor(_HEAD)
            else:
                content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zipfile(path))
                stored = set(content)
                if _HEAD in stored:
                    head = content[_HEAD].clone()
        names |= stored
    if _HEAD not in names:
        found = sorted(name for name in names if name.startswith(tuple(_OTHER_HEADS)))
        raise CheckpointError(
            f"The checkpoint in {folder} has no {_HEAD}, so there is no reward head to read. {_hint(found)}"
        )
    return head


def _check_report(folder: Path, report: dict[str, Any]) -> None:
    problems = {
        "missing": sorted(report["missing_keys"]),
        "unexpected": sorted(report["unexpected_keys"]),
        "of another shape": sorted(str(entry[0]) for entry in report["mismatched_keys"]),
    }
    found = [
        f"{len(names)} {kind} ({', '.join(names[:8])}{', …' if len(names) > 8 else ''})"
        for kind, names in problems.items()
        if names
    ]
    if found or report["error_msgs"]:
        raise CheckpointError(
            f"The tensors in {folder} are not those of the model that config.json describes: "
            f"{'; '.join(found + report['error_msgs'])}. {_hint(problems['unexpected'])}"
        )


def _hint(names: list[str]) -> str:
    hints = [f"{start}*: {hint}" for start, hint in _OTHER_HEADS.items() if any(n.startswith(start) for n in names)]
    return " ".join(hints) or "Compare config.json with the weights, or download the model again."
