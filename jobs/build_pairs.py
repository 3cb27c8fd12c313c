"""Makes preference pairs from a run's score table; also an entry point for ``ray job submit``.

python jobs/build_pairs.py run.path=s3://bucket/scored output.path=s3://bucket/pairs
"""

import sys

from polar_ray.cli import main

if __name__ == "__main__":
    # The recipe may be left out: then it is the one that the project ships.
    given = [argument for argument in sys.argv[1:] if "=" not in argument and not argument.startswith("-")]
    recipe = [] if given else ["pipelines/pairs.yaml"]
    sys.argv[1:1] = ["derive", *recipe]
    main()
