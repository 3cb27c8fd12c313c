"""The formats that datasets are written in, and the files around them."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from polar_ray.recipe.base import Part

Task = Literal["pairs", "best_of_n", "labels"]
FileFormat = Literal["jsonl", "parquet"]


class Format(Part):
    """What every format says of itself.

    Attributes:
        tasks: What can be written in it.
        file_formats: The file formats that its readers take.
    """

    tasks: ClassVar[tuple[Task, ...]] = ("pairs", "best_of_n", "labels")
    file_formats: ClassVar[tuple[FileFormat, ...]] = ("jsonl", "parquet")


class Ids(Format):
    """Ids and rewards without any text: what to join with the score table."""

    kind: Literal["ids"] = "ids"


class TrlPreference(Format):
    """TRL's preference format, for DPOTrainer, CPO, ORPO and RewardTrainer.

    Attributes:
        style: ``conversational``: lists of messages. ``standard``: text, for prompts of one user message.
        prompt: ``explicit``: a column of its own (recommended for DPO). ``implicit``: chosen and rejected hold the
            whole conversation (recommended for RewardTrainer); conversational only.
        margin: Adds the column ``margin``, which RewardTrainer's loss takes off the difference.
    """

    tasks: ClassVar[tuple[Task, ...]] = ("pairs",)
    kind: Literal["trl_preference"] = "trl_preference"
    style: Literal["conversational", "standard"] = "conversational"
    prompt: Literal["explicit", "implicit"] = "explicit"
    margin: bool = True


class TrlUnpaired(Format):
    """TRL's unpaired preference format, for KTOTrainer: prompt, completion, label.

    Attributes:
        style: ``conversational``: lists of messages. ``standard``: text, for prompts of one user message.
    """

    tasks: ClassVar[tuple[Task, ...]] = ("labels",)
    kind: Literal["trl_unpaired"] = "trl_unpaired"
    style: Literal["conversational", "standard"] = "conversational"


class TrlSft(Format):
    """TRL's formats for SFTTrainer.

    Attributes:
        style: ``messages``: the whole conversation. ``prompt_completion``: two lists of messages, so that the loss is
            taken on the completion alone.
    """

    tasks: ClassVar[tuple[Task, ...]] = ("best_of_n",)
    kind: Literal["trl_sft"] = "trl_sft"
    style: Literal["messages", "prompt_completion"] = "messages"


class Polar(Format):
    """Rows for fine-tuning POLAR with xtuner: prompt, reference, chosen, rejected. The first reference is taken."""

    tasks: ClassVar[tuple[Task, ...]] = ("pairs",)
    kind: Literal["polar"] = "polar"


class OpenRLHF(Format):
    """OpenRLHF: chosen and rejected (pairs), or input and output (best-of-N), with ``--data.apply_chat_template``.

    Attributes:
        prompt: ``implicit``: whole conversations, which its readers take without further settings. ``explicit``: needs
            ``--data.prompt_key prompt``, without which the prompt is ignored in silence.
        margin: Adds the column ``margin``.
    """

    tasks: ClassVar[tuple[Task, ...]] = ("pairs", "best_of_n")
    kind: Literal["openrlhf"] = "openrlhf"
    prompt: Literal["explicit", "implicit"] = "implicit"
    margin: bool = True


class Classifier(Format):
    """The whole conversation and its label (``good``, ``unsure``, ``bad``) as text, for training a classifier."""

    tasks: ClassVar[tuple[Task, ...]] = ("labels",)
    kind: Literal["classifier"] = "classifier"


class LlamaFactory(Format):
    """LLaMA-Factory's ShareGPT layout (ranking, SFT or KTO) with an entry for its ``dataset_info.json``."""

    tasks: ClassVar[tuple[Task, ...]] = ("pairs", "best_of_n", "labels")
    kind: Literal["llama_factory"] = "llama_factory"


class NemoRL(Format):
    """NeMo-RL's preference rows in JSON lines: a context and two ranked completions."""

    tasks: ClassVar[tuple[Task, ...]] = ("pairs",)
    file_formats: ClassVar[tuple[FileFormat, ...]] = ("jsonl",)
    kind: Literal["nemo_rl"] = "nemo_rl"


class Verl(Format):
    """verl, in Parquet: text for its reward-model dataset (pairs; prompts of one user message, without chat template),
    or messages (best-of-N)."""

    tasks: ClassVar[tuple[Task, ...]] = ("pairs", "best_of_n")
    file_formats: ClassVar[tuple[FileFormat, ...]] = ("parquet",)
    kind: Literal["verl"] = "verl"


class Axolotl(Format):
    """axolotl's ``chat_template.default`` (pairs) or ``chat_template`` (best-of-N): messages, chosen, rejected."""

    tasks: ClassVar[tuple[Task, ...]] = ("pairs", "best_of_n")
    kind: Literal["axolotl"] = "axolotl"


Export = (
    Ids | TrlPreference | TrlUnpaired | TrlSft | Polar | OpenRLHF | LlamaFactory | NemoRL | Verl | Axolotl | Classifier
)
AnyExport = Annotated[Export, Field(discriminator="kind")]


class Files(Part):
    """How rows are laid out in files.

    Attributes:
        format: JSON lines or Parquet.
        shard_rows: Most rows in one file.
        validation: Share of the prompts whose rows go to the validation set. A prompt's side depends on its text
            alone: it is the same in every dataset, and a larger share keeps what was there.
        provenance: Adds ids, models and rewards to every row; trainers pass over them.
    """

    format: FileFormat = "jsonl"
    shard_rows: int = Field(default=50_000, ge=1)
    validation: float = Field(default=0.0, ge=0, lt=1)
    provenance: bool = True


class Card(Part):
    """What the dataset card says beyond counts and lineage: Hugging Face's front matter fields.

    Attributes:
        title: Shown name; the recipe's name where there is none.
        license: Identifier such as ``apache-2.0``; that of the prompts and generations, which only you know.
        language: Codes such as ``en``.
        tags: Added to the tags that every card carries.
    """

    title: str | None = None
    license: str | None = None
    language: list[str] = []
    tags: list[str] = []
