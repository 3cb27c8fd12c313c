"""Entry point for ``ray job submit``: scores the dataset of a recipe.

ray job submit --working-dir . -- python jobs/score.py pipelines/score_polar_7b.yaml input.path=s3://bucket/gens/
"""

import sys

from polar_ray.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "run")
    main()
