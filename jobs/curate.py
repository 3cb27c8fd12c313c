"""Runs one tick of a curation; also an entry point for ``ray job submit`` and for a schedule.

python jobs/curate.py pipelines/curate_nightly.yaml input.path=s3://bucket/gens/ output.path=s3://bucket/curated
"""

import sys

from polar_ray.cli import main

if __name__ == "__main__":
    # The recipe may be left out: then it is the one that the project ships.
    given = [argument for argument in sys.argv[1:] if argument.endswith((".yaml", ".yml")) and "=" not in argument]
    recipe = [] if given else ["pipelines/curate_nightly.yaml"]
    sys.argv[1:1] = ["curate", *recipe]
    main()
