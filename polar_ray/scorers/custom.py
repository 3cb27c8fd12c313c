"""Scorers that a recipe names by their path."""

import hashlib
import inspect
from importlib import import_module

from polar_ray.errors import PolarRayError, RecipeError
from polar_ray.recipe.scorers import Custom
from polar_ray.recipe.secrets import hidden, hidden_error, revealed, secrets_in
from polar_ray.scorers.declared import declared
from polar_ray.scorers.text_scorer import TextScorer


class CustomScorer:
    """Finds and makes the class that a recipe names; what is used is that class itself."""

    @staticmethod
    def from_config(config: Custom) -> TextScorer:
        """Makes the scorer.

        Raises:
            RecipeError: The class cannot be imported, is no ``TextScorer``, does not take the settings, or raises
                anything else when it is made.
            PolarRayError: What the class itself raises of this kind.
        """
        cls = find_class(config)
        settings = revealed(config.settings, config.public)
        secrets = secrets_in({name: value for name, value in settings.items() if name not in config.public})
        try:
            scorer = cls(**settings)
        except TypeError as error:
            raise RecipeError(f"scorer.settings do not fit {config.target}: {hidden(str(error), secrets)}") from None
        except PolarRayError as error:
            # A traceback would show the message, and the message a secret.
            raise hidden_error(error, secrets) from None
        except Exception as error:
            # The class is the user's, and may raise anything.
            raise RecipeError(
                f"scorer.target {config.target}: making it with scorer.settings ended in "
                f"{type(error).__name__}: {hidden(str(error), secrets)}"
            ) from (None if secrets else error)
        scorer.secrets = tuple(secrets)
        return scorer

    @staticmethod
    def fingerprint(config: Custom) -> dict[str, str]:
        """Returns the class, hashes of its settings, and the hash of the file that defines it."""
        source = inspect.getsourcefile(find_class(config))
        assert source is not None, "a class that was imported by its module's name has a file"
        with open(source, "rb") as file:
            code = hashlib.sha256(file.read()).hexdigest()
        return {"target": config.target, "code": code} | declared(config)


def find_class(config: Custom) -> type[TextScorer]:
    """Returns the class that a recipe names.

    Raises:
        RecipeError: It cannot be imported, or is no ``TextScorer``.
    """
    module, name = config.target.split(":")
    try:
        cls = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise RecipeError(
            f"scorer.target {config.target} cannot be imported: {error}; the module must be installed on the workers, "
            "or lie in the job's working directory"
        ) from error
    except Exception as error:
        # The module is the user's, and may raise anything while it is imported.
        raise RecipeError(
            f"scorer.target {config.target}: importing {module} ended in {type(error).__name__}: {error}; it must be "
            f"importable by itself: python -c 'import {module}' shows where it fails"
        ) from error
    if not (isinstance(cls, type) and issubclass(cls, TextScorer)):
        base = f"{TextScorer.__module__}.{TextScorer.__name__}"
        raise RecipeError(f"scorer.target {config.target} is not a subclass of {base}")
    return cls
