"""The settings of each kind of scorer.

These are the small, picklable descriptions that travel to the workers; ``polar_ray.scorers.catalog`` says
which class each of them becomes there.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from polar_ray.recipe.base import Part
from polar_ray.recipe.secrets import masked_settings

DType = Literal["float32", "bfloat16", "float16"]
References = Literal["first", "max", "mean"]


class Length(Part):
    """Baseline: the number of characters of the candidate.

    Length is what a careless reward model learns first, so it is the baseline to hold every other against.
    """

    kind: Literal["length"] = "length"


class TextCloseness(Part):
    """Closeness to the reference computed from text alone: no weights, nothing learned.

    Attributes:
        references: Which reward a candidate gets when its group has several references.
        math: Compare final answers with ``math-verify`` where the reference ends in one.
        timeout_s: Seconds of processor time that one comparison of answers may take before the candidate's status
            becomes ``timeout``.
        group_timeout_s: Likewise for all comparisons of a group together: the candidates whose answers were not
            compared by then are ``timeout`` too.
    """

    kind: Literal["text_closeness"] = "text_closeness"
    references: References = "max"
    math: bool = True
    timeout_s: float = Field(default=5.0, gt=0)
    group_timeout_s: float = Field(default=30.0, gt=0)


class KnownScore(Part):
    """A conversation and the reward that the model is known to give it, for the self-check."""

    prompt: str
    candidate: str
    reference: str | None = None
    reward: float
    tolerance: float = Field(default=0.05, ge=0)


class RewardModel(Part):
    """What every scorer with a model shares.

    Attributes:
        model: A local folder or a Hugging Face id.
        revision: Branch, tag or commit on the Hugging Face hub.
        adapter: A LoRA adapter of PEFT that is merged into the model: a local folder or a Hugging Face id. The
            tokenizer and the chat template are the model's.
        adapter_revision: Branch, tag or commit of the adapter on the Hugging Face hub.
        dtype: The backbone's dtype; the head always runs in float32.
        device: ``auto`` takes CUDA where there is one.
        token_budget: Most tokens in one forward; ``None`` lets the engine choose.
        strip_think: Score only what follows ``</think>`` in a candidate, and in a reference.
        self_check: ``order``: a known good answer must beat a known bad one. ``numeric``: rewards are finite
            and do not depend on what they are batched with (for checkpoints whose order is not known).
        known_scores: Rewards that this checkpoint is known to give; each is checked at start.
    """

    model: str
    revision: str | None = None
    adapter: str | None = None
    adapter_revision: str | None = None
    dtype: DType = "bfloat16"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    token_budget: int | None = Field(default=None, ge=1)
    strip_think: bool = False
    self_check: Literal["order", "numeric"] = "order"
    known_scores: list[KnownScore] = []


class Polar(RewardModel):
    """POLAR-7B and POLAR-1.8B: how close a candidate is to a reference, by a model trained for that.

    Attributes:
        references: Which reward a candidate gets when its group has several references.
        max_length: Most ids of one sequence; the prompt's head is cut to fit.
        max_response_length: Most ids (with BOS) of a reference and of a candidate.
        response_cut_side: Which end of a too long reference or candidate is dropped. ``right`` keeps the head,
            as in the model's training.
        wrapper: ``sft`` joins prompt and answer by a newline, ``pretrain`` by nothing.
    """

    kind: Literal["polar"] = "polar"
    references: References = "max"
    max_length: int = Field(default=16384, ge=64)
    max_response_length: int = Field(default=4096, ge=1)
    response_cut_side: Literal["left", "right"] = "right"
    wrapper: Literal["sft", "pretrain"] = "sft"


class InternLM2Reward(RewardModel):
    """internlm2-1_8b-reward, -7b-reward and -20b-reward.

    Attributes:
        max_length: Most ids of one sequence; ``None`` takes the model's own limit. A longer conversation gets
            the status ``too_long``: the model's own code never cuts.
    """

    kind: Literal["internlm2_reward"] = "internlm2_reward"
    max_length: int | None = Field(default=None, ge=8)


class SequenceClassifier(RewardModel):
    """A ``*ForSequenceClassification`` checkpoint of transformers with one label.

    Attributes:
        max_length: Most ids of one sequence; ``None`` takes the model's own limit.
        on_too_long: ``skip`` gives the status ``too_long``; ``cut_prompt`` drops whole turns from the start of
            the prompt (a system message is kept) and marks the candidate as truncated.
        chat_template: A template that replaces the tokenizer's own; text or the path of a ``.jinja`` file.
        chat_template_kwargs: Variables for the template, such as ``date_string`` or ``enable_thinking``.
        self_check: Defaults to ``numeric``, since not every classifier rewards helpfulness.
    """

    kind: Literal["sequence_classifier"] = "sequence_classifier"
    max_length: int | None = Field(default=None, ge=8)
    on_too_long: Literal["skip", "cut_prompt"] = "skip"
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] = {}
    self_check: Literal["order", "numeric"] = "numeric"


class Custom(Part):
    """A scorer of your own: a subclass of ``polar_ray.scorers.text_scorer.TextScorer``.

    Attributes:
        target: ``package.module:Class``; the module must be importable on the workers.
        settings: Keyword arguments of the class. They are secrets: manifests, reports, plans and messages show their
            names and a hash, fingerprints hold hashes. A value ``{env: NAME}`` is read from the environment where the
            scorer is made; then its name is what the fingerprint holds, so that a key may be replaced.
        public: Names of settings that are none, and are shown.
    """

    kind: Literal["custom"] = "custom"
    target: str = Field(pattern=r"^[\w.]+:\w+$")
    settings: dict[str, Any] = Field(default={}, repr=False)
    public: list[str] = []

    @model_validator(mode="after")
    def _public_ones_are_settings(self) -> "Custom":
        if unknown := [name for name in self.public if name not in self.settings]:
            raise ValueError(f"public names {unknown[0]!r}, which is none of the settings")
        return self

    def masked(self) -> "Custom":
        """Returns the scorer as it may be shown."""
        return self.model_copy(update={"settings": masked_settings(self.settings, self.public)})


ScorerConfig = Length | TextCloseness | Custom | Polar | InternLM2Reward | SequenceClassifier
AnyScorer = Annotated[ScorerConfig, Field(discriminator="kind")]
