"""What ``config.json`` says of a sequence classifier, and which classifiers can be scored. Loads no torch."""

from pathlib import Path
from typing import Any

from polar_ray.errors import CheckpointError
from polar_ray.models.checkpoint import read_config
from polar_ray.models.damage import damage_of

FAMILIES: dict[str, str] = {
    "gemma": "GemmaForSequenceClassification",
    "gemma2": "Gemma2ForSequenceClassification",
    "gemma3_text": "Gemma3TextForSequenceClassification",
    "glm4": "Glm4ForSequenceClassification",
    "gpt2": "GPT2ForSequenceClassification",
    "gpt_neox": "GPTNeoXForSequenceClassification",
    "llama": "LlamaForSequenceClassification",
    "mistral": "MistralForSequenceClassification",
    "mixtral": "MixtralForSequenceClassification",
    "olmo2": "Olmo2ForSequenceClassification",
    "phi": "PhiForSequenceClassification",
    "phi3": "Phi3ForSequenceClassification",
    "qwen2": "Qwen2ForSequenceClassification",
    "qwen2_moe": "Qwen2MoeForSequenceClassification",
    "qwen3": "Qwen3ForSequenceClassification",
    "qwen3_moe": "Qwen3MoeForSequenceClassification",
    "smollm3": "SmolLM3ForSequenceClassification",
    "stablelm": "StableLmForSequenceClassification",
    "starcoder2": "Starcoder2ForSequenceClassification",
}
"""The classifiers that can be loaded: ``model_type`` in ``config.json`` and the architecture that goes with it.

All are causal, so the last token has seen the whole conversation and padding on the right is never seen.
"""

_ENCODERS = frozenset(
    {
        "albert",
        "bert",
        "camembert",
        "deberta",
        "deberta-v2",
        "distilbert",
        "electra",
        "longformer",
        "modernbert",
        "mpnet",
        "roberta",
        "xlm-roberta",
        "xlm-roberta-xl",
    }
)
_NEEDS_OTHER_CODE: dict[str, str] = {
    "InternLM2ForRewardModel": "Use the scorer internlm2_reward, or polar for a POLAR checkpoint.",
    "LlamaForSequenceClassificationWithNormal_Weights": "It is a URM, which is not supported yet.",
    "LlamaForRewardModelWithGating": "It is an ArmoRM or QRM, which are not supported yet.",
    "LlamaForRewardModelWithGating31": "It is a QRM, which is not supported yet.",
    "Gemma2ForRewardModelWithGating": "It is an ArmoRM or QRM, which are not supported yet.",
    "INFORMForSequenceClassification": "It is an INF-ORM, whose head has two layers; it is not supported yet.",
    "Qwen2ForRewardModel": "Its head has two layers; it is not supported yet.",
    "Qwen2ForProcessRewardModel": "It rewards the steps of a solution; it is not supported yet.",
}


def read_classifier_config(folder: Path, *, adapted: bool = False) -> dict[str, Any]:
    """Returns ``config.json`` of a causal classifier of transformers with one label.

    Args:
        folder: The checkpoint.
        adapted: An adapter goes with it, which may bring the head, so that the checkpoint may be a language model.

    Raises:
        CheckpointError: The file is missing or damaged, or the model is none.
    """
    with damage_of(folder / "config.json"):
        config = _read(folder, adapted)
        max_positions(config)
    return config


def _read(folder: Path, adapted: bool) -> dict[str, Any]:
    config = read_config(folder)
    _check_architecture(folder, config, adapted)
    if adapted and is_language_model(config):
        config["num_labels"] = 1
    labels = len(config["id2label"]) if config.get("id2label") else config.get("num_labels")
    if labels is None:
        # transformers would assume two, and the head would not be what was trained.
        raise CheckpointError(
            f"{folder}/config.json does not say how many labels the model has. If it is a reward model with one, "
            'add "num_labels": 1.'
        )
    if labels != 1:
        raise CheckpointError(
            f"The classifier in {folder} has {labels} labels; a reward needs one. Models with several attributes or "
            "classes are not supported yet."
        )
    if config.get("use_bidirectional_attention") or config.get("is_causal") is False:
        raise CheckpointError(
            f"{folder}/config.json switches causal attention off. Only causal models can be scored exactly beside "
            "longer ones; this one is not supported."
        )
    if _positions_key(config) not in config:
        raise CheckpointError(f"{folder}/config.json has no {_positions_key(config)}. Download the whole model.")
    if "quantization_config" in config:
        raise CheckpointError(
            f"The checkpoint in {folder} is quantized, which changes rewards noticeably and is not supported. Use the "
            "unquantized model with dtype: bfloat16."
        )
    return config


def is_language_model(config: dict[str, Any]) -> bool:
    """Whether ``config.json`` is that of a model without a reward head."""
    architecture = (config.get("architectures") or [""])[0]
    return str(architecture).endswith(("ForCausalLM", "LMHeadModel", "Model"))


def max_positions(config: dict[str, Any]) -> int:
    """Returns the most tokens of a sequence that the model can be given.

    With LongRoPE (Phi-3, where older files call it ``su`` or ``yarn``) that is the original context: beyond it
    transformers changes the rotary frequencies of all sequences of a forward by the longest of them, so that a score
    would depend on its neighbours.
    """
    longest = int(config[_positions_key(config)])
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type"))
    if kind == "longrope" or (config["model_type"] == "phi3" and kind is not None and kind != "default"):
        original = rope.get("original_max_position_embeddings") or config["original_max_position_embeddings"]
        return min(longest, int(original))
    return longest


def _positions_key(config: dict[str, Any]) -> str:
    return "n_positions" if config["model_type"] == "gpt2" else "max_position_embeddings"


def _check_architecture(folder: Path, raw: dict[str, Any], adapted: bool) -> None:
    model_type = raw.get("model_type")
    architecture = (raw.get("architectures") or [None])[0]
    where = f"The model in {folder} is a {architecture or model_type}"
    if architecture in _NEEDS_OTHER_CODE:
        raise CheckpointError(f"{where}, not a native classifier. {_NEEDS_OTHER_CODE[architecture]}")
    if model_type in _ENCODERS:
        raise CheckpointError(
            f"{where}, an encoder without causal attention. This scorer reads causal models only; encoder "
            "classifiers are not supported yet."
        )
    if model_type not in FAMILIES:
        raise CheckpointError(
            f"{where}, model_type {model_type!r}, which this scorer does not know. It knows: "
            f"{', '.join(sorted(FAMILIES))}."
        )
    expected = FAMILIES[model_type]
    if architecture is None or architecture == expected:
        return
    if is_language_model(raw):
        if adapted:
            return
        raise CheckpointError(
            f"{where}: a language model without a reward head. A reward model says {expected} in config.json. If the "
            "head was trained with LoRA, give its folder as adapter."
        )
    raise CheckpointError(
        f"{where}, which is not a class of transformers for {model_type!r}; code in a checkpoint is never run. "
        f"This scorer reads {expected}."
    )
