"""For processes that write logs."""

from transformers.utils import logging


def without_progress_bars() -> None:
    """Turns transformers' progress bars off in this process: in a log each step of a bar is a line."""
    logging.disable_progress_bar()
