"""``python -m polar_ray`` is ``polar-ray``."""

from polar_ray.cli import main

main()
