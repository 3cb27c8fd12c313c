"""What ``adapter_config.json`` says of a LoRA adapter, and which adapters can be merged. Loads no torch.

The format is PEFT's (``peft.LoraConfig``): which modules have a low-rank update, of which rank and scale, and which
modules were trained whole and saved.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from polar_ray.errors import CheckpointError
from polar_ray.models.checkpoint import ADAPTER_CONFIG, read_adapter_config
from polar_ray.models.damage import damage_of
from polar_ray.models.pattern import matches

Number = TypeVar("Number", int, float)

_WITHOUT_EFFECT = frozenset(
    {
        *("auto_mapping", "base_model_name_or_path", "revision", "inference_mode", "peft_type", "task_type"),
        *("peft_version", "lora_dropout", "init_lora_weights", "loftq_config", "eva_config", "megatron_core"),
        # The orientation of a weight is taken from its module's class, as PEFT does.
        "fan_in_fan_out",
        "qalora_group_size",
    }
)
"""Keys that do not change what a trained adapter computes, or that are checked apart."""
_READ = frozenset(
    {
        *("r", "lora_alpha", "use_rslora", "target_modules", "exclude_modules", "modules_to_save", "bias"),
        *("rank_pattern", "alpha_pattern", "layers_to_transform", "layers_pattern"),
    }
)
_KEEPS_THE_BASE = (True, False, None, "gaussian", "eva", "orthogonal")
"""Values of ``init_lora_weights`` that leave the base model's weights as they are."""


@dataclass(frozen=True)
class AdapterConfig:
    """A LoRA adapter's settings. Modules are named by their path in the model that was trained.

    Attributes:
        folder: Where the adapter is.
        base_model: The model that it was trained on, as its training knew it.
        rank: Rank of the update, where no pattern says otherwise.
        alpha: Scale of the update before the rank, likewise.
        rank_pattern: Ranks by regular expressions of modules; the first that matches counts.
        alpha_pattern: Likewise for ``alpha``.
        rslora: Divide by the root of the rank (arXiv 2312.03732) and not by the rank.
        target_modules: Ends of paths, or one regular expression.
        exclude_modules: Likewise, of modules that are left out.
        modules_to_save: Ends of paths of modules that were trained whole.
        layers: The layers that are adapted; None for all.
        layers_pattern: Names of the lists of layers that ``layers`` counts in.
    """

    folder: Path
    base_model: str | None
    rank: int
    alpha: float
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    rslora: bool
    target_modules: str | tuple[str, ...]
    exclude_modules: str | tuple[str, ...]
    modules_to_save: tuple[str, ...]
    layers: tuple[int, ...] | None
    layers_pattern: tuple[str, ...]

    @staticmethod
    def read(folder: Path) -> "AdapterConfig":
        """Reads ``adapter_config.json``.

        Raises:
            CheckpointError: It is missing or damaged, or asks for something that cannot be merged.
        """
        content = read_adapter_config(folder)
        with damage_of(folder / ADAPTER_CONFIG):
            _check_kind(folder, content)
            return _of(folder, content)

    def rank_of(self, module: str) -> int:
        """Returns the rank of a module's update."""
        return self._by_pattern(self.rank_pattern, module, self.rank)

    def scale_of(self, module: str) -> float:
        """Returns what the product of a module's two matrices is multiplied by: alpha / r, or alpha / sqrt(r)."""
        rank = self.rank_of(module)
        return self._by_pattern(self.alpha_pattern, module, self.alpha) / (rank**0.5 if self.rslora else rank)

    def targets(self, module: str) -> bool:
        """Whether a module is one that the adapter was trained to update; not one that was trained whole."""
        if self.saves(module) or (self.exclude_modules and self._matches(self.exclude_modules, module)):
            return False
        return self._matches(self.target_modules, module) and (
            self.layers is None or self._layer_of(module) in self.layers
        )

    def saves(self, module: str) -> bool:
        """Whether a module was trained whole. As in PEFT any end of a path counts: ``norm`` is ``layernorm`` too."""
        return module.endswith(self.modules_to_save)

    def differs_from(self, model: str) -> str | None:
        """Returns a sentence if the adapter was trained on a model of another name than this, else None.

        Only the last part of the names is compared: where the files were differs from machine to machine.
        """
        if self.base_model is None or Path(self.base_model).name.lower() == Path(model).name.lower():
            return None
        return (
            f"the adapter in {self.folder} was trained on {self.base_model}, but model is {model}; if that is not the "
            "same model under another name, its rewards mean nothing"
        )

    def _layer_of(self, module: str) -> int | None:
        lists = "|".join(self.layers_pattern) or r"[^.]*"
        found = matches(rf".*\.(?:{lists})\.(\d{{1,18}})\.", module, what=self._place("layers_pattern"))
        return int(found[1]) if found else None

    def _matches(self, names: str | tuple[str, ...], module: str) -> bool:
        if isinstance(names, str):
            what = self._place("target_modules or exclude_modules")
            return matches(names, module, what=what, whole=True) is not None
        return _ends_with(names, module)

    def _by_pattern(self, patterns: Mapping[str, Number], module: str, default: Number) -> Number:
        """As PEFT's ``get_pattern_key``: a pattern matches the end of a path, from the start of a part of it on."""
        what = self._place("rank_pattern or alpha_pattern")
        found = (value for key, value in patterns.items() if matches(rf"(.*\.)?({key})$", module, what=what))
        return next(found, default)

    def _place(self, key: str) -> str:
        return f"{key} in {self.folder / ADAPTER_CONFIG}"


def _of(folder: Path, content: dict[str, Any]) -> AdapterConfig:
    for key in ("r", "lora_alpha", "target_modules"):
        if key not in content:
            raise CheckpointError(f"{folder}/{ADAPTER_CONFIG} has no {key!r}. Download the adapter again.")
    layers = content.get("layers_to_transform")
    lists = content.get("layers_pattern")
    return AdapterConfig(
        folder,
        None if content.get("base_model_name_or_path") is None else str(content["base_model_name_or_path"]),
        _positive(content["r"]),
        float(content["lora_alpha"]),
        {str(key): _positive(value) for key, value in dict(content.get("rank_pattern") or {}).items()},
        {str(key): float(value) for key, value in dict(content.get("alpha_pattern") or {}).items()},
        bool(content.get("use_rslora")),
        _names(content["target_modules"]),
        _names(content.get("exclude_modules")),
        _each_a_name(content.get("modules_to_save") or ()),
        None if layers is None else (layers,) if isinstance(layers, int) else tuple(map(int, layers)),
        _each_a_name([lists] if isinstance(lists, str) else lists or ()),
    )


def _check_kind(folder: Path, content: dict[str, Any]) -> None:
    where = f"The adapter in {folder}"
    merge = "Merge it into its model with PEFT's merge_and_unload() and give the result as model."
    if content.get("peft_type") != "LORA":
        raise CheckpointError(f"{where} is of the kind {content.get('peft_type')}; only LORA is supported. {merge}")
    if content.get("use_dora"):
        raise CheckpointError(f"{where} is a DoRA, whose magnitudes are not supported. {merge}")
    if content.get("bias", "none") != "none":
        raise CheckpointError(f"{where} has trained biases (bias: {content['bias']}), which is not supported. {merge}")
    if content.get("init_lora_weights", True) not in _KEEPS_THE_BASE:
        raise CheckpointError(
            f"{where} was started by {content['init_lora_weights']}, which changes the weights of the model that it "
            "belongs to. Convert it with PEFT's path_initial_model_for_weight_conversion, or merge it with PEFT."
        )
    unknown = sorted(key for key, value in content.items() if value and key not in _READ | _WITHOUT_EFFECT)
    if unknown:
        settings = ", ".join(f"{key}: {content[key]}" for key in unknown)
        raise CheckpointError(f"{where} has {settings}, which is not supported. {merge}")


def _names(value: str | Iterable[str] | None) -> str | tuple[str, ...]:
    return value if isinstance(value, str) else _each_a_name(value or ())


def _each_a_name(values: Iterable[Any]) -> tuple[str, ...]:
    names = tuple(values)
    if isinstance(values, str) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"{values!r:.80} is no list of names")
    return names


def _positive(value: Any) -> int:
    if int(value) < 1:
        raise ValueError(f"a rank of {value}")
    return int(value)


def _ends_with(names: tuple[str, ...], module: str) -> bool:
    return any(module == name or module.endswith(f".{name}") for name in names)
