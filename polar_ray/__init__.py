"""polar_ray: score LLM generations with reward models on Ray.

    from polar_ray import Recipe, run, read_scores

    manifest = run(Recipe.load("pipelines/demo.yaml"))
    table = read_scores("out/demo", columns=["prompt_id", "reward", "rank"])

A scorer works on its own, without Ray:

    from polar_ray import PolarScorer

    scorer = PolarScorer.from_pretrained("internlm/POLAR-7B")
    scores = scorer.score([group])

Importing this package loads neither torch nor Ray; each name loads what it needs when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from polar_ray.curating.tick import curate
    from polar_ray.curating.versions import latest_version
    from polar_ray.data.explode import explode
    from polar_ray.data.group import Candidate, Group, Message
    from polar_ray.data.scores import open_scores, read_scores
    from polar_ray.data.status import Status
    from polar_ray.deriving.derive import derive
    from polar_ray.deriving.report.report import report
    from polar_ray.recipe.curate import CurateRecipe
    from polar_ray.recipe.derive import DeriveRecipe
    from polar_ray.recipe.recipe import Recipe
    from polar_ray.running.deriving import derive_on_ray
    from polar_ray.running.manifest import Manifest
    from polar_ray.running.plan import plan
    from polar_ray.running.retry import retry
    from polar_ray.running.run import run
    from polar_ray.scorers.base import CandidateScore, Scores
    from polar_ray.scorers.internlm2_reward import InternLM2RewardScorer
    from polar_ray.scorers.length import LengthScorer
    from polar_ray.scorers.polar import PolarScorer
    from polar_ray.scorers.sequence_classifier import SequenceClassifierScorer
    from polar_ray.scorers.text_closeness import TextClosenessScorer
    from polar_ray.scorers.text_scorer import TextScorer

__version__ = "0.1.0"

__all__ = [
    "Candidate",
    "CandidateScore",
    "CurateRecipe",
    "DeriveRecipe",
    "Group",
    "InternLM2RewardScorer",
    "LengthScorer",
    "Manifest",
    "Message",
    "PolarScorer",
    "Recipe",
    "Scores",
    "SequenceClassifierScorer",
    "Status",
    "TextClosenessScorer",
    "TextScorer",
    "curate",
    "derive",
    "derive_on_ray",
    "explode",
    "latest_version",
    "open_scores",
    "plan",
    "read_scores",
    "report",
    "retry",
    "run",
]

_MODULES = {
    "Candidate": "data.group",
    "CandidateScore": "scorers.base",
    "CurateRecipe": "recipe.curate",
    "DeriveRecipe": "recipe.derive",
    "Group": "data.group",
    "InternLM2RewardScorer": "scorers.internlm2_reward",
    "LengthScorer": "scorers.length",
    "Manifest": "running.manifest",
    "Message": "data.group",
    "PolarScorer": "scorers.polar",
    "Recipe": "recipe.recipe",
    "Scores": "scorers.base",
    "SequenceClassifierScorer": "scorers.sequence_classifier",
    "Status": "data.status",
    "TextClosenessScorer": "scorers.text_closeness",
    "TextScorer": "scorers.text_scorer",
    "curate": "curating.tick",
    "derive": "deriving.derive",
    "derive_on_ray": "running.deriving",
    "explode": "data.explode",
    "latest_version": "curating.versions",
    "open_scores": "data.scores",
    "plan": "running.plan",
    "read_scores": "data.scores",
    "report": "deriving.report.report",
    "retry": "running.retry",
    "run": "running.run",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
