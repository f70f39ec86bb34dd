"""What the ranks of a test import, and the extension that each would otherwise load: done once, before they fork."""

import dsprune.train.train  # noqa: F401
from dsprune.zero.ops import load_collectives

load_collectives()
