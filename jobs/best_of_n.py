"""Selects the best candidates of each prompt from a run's score table; also an entry point for ``ray job submit``.

python jobs/best_of_n.py run.path=s3://bucket/scored output.path=s3://bucket/best
"""

import sys

from polar_ray.cli import main

if __name__ == "__main__":
    # The recipe may be left out: then it is the one that the project ships.
    given = [argument for argument in sys.argv[1:] if "=" not in argument and not argument.startswith("-")]
    recipe = [] if given else ["pipelines/best_of_n.yaml"]
    sys.argv[1:1] = ["derive", *recipe]
    main()
