"""polar_ray: score LLM generations with reward models on Ray."""

__version__ = "0.1.0"
