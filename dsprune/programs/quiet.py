"""What other libraries say that nobody asked for: one screen of it for each rank."""

import logging
import sys
import warnings

import datasets
from transformers.utils import logging as transformers_logging

from dsprune.distributed.ranks import Ranks

__all__ = ["quiet"]


def quiet(ranks: Ranks) -> None:
    """Keep other libraries to what a user can act on; to be called before DeepSpeed is imported.

    Their progress bars are for a person who watches, and their warnings are said once, by the first rank.
    """
    # DeepSpeed calls functions of torch under names that torch is giving up.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
    # Said of models that were trained with an old release of transformers; none of ours are.
    warnings.filterwarnings("ignore", category=FutureWarning, message="Version v4.12.0 introduces")
    if not (ranks.is_first and sys.stderr.isatty()):
        datasets.disable_progress_bars()
        transformers_logging.disable_progress_bar()
        transformers_logging.set_verbosity_error()  # its report on new heads is a table for a terminal
    if not ranks.is_first:
        # A filter, since DeepSpeed sets the level of its logger itself.
        logging.getLogger("DeepSpeed").addFilter(lambda record: record.levelno >= logging.ERROR)
