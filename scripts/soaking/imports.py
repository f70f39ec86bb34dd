"""What takes a command long to import, and what its ranks would each look for a compiler for."""

import dsprune.train.train  # noqa: F401
from dsprune.zero.ops import load_collectives

load_collectives()
