"""Which tokens of a block are to be guessed."""

import numpy as np

from dsprune.tasks.token_rows import IGNORED

__all__ = ["mask_tokens"]


def mask_tokens(
    ids: np.ndarray,
    special: np.ndarray,
    fraction: float,
    *,
    mask: int,
    vocabulary: int,
    generator: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Hide some tokens, at least one: 80 % of them behind the mask token, 10 % behind others, 10 % not at all.

    Source: Devlin et al., BERT (NAACL 2019), section 3.1.

    Args:
        ids: tokens of a block.
        special: True for those that are never hidden.
        fraction: how many of the others are.
        mask: the mask token.
        vocabulary: number of tokens to draw from.
        generator: of the choice.

    Returns:
        The tokens to show, and the labels, `IGNORED` where nothing is hidden.
    """
    free = np.flatnonzero(~special)
    hidden = generator.permutation(free)[: max(1, round(fraction * len(free)))]
    num_masked, num_random = round(0.8 * len(hidden)), round(0.1 * len(hidden))
    shown, labels = ids.copy(), np.full_like(ids, IGNORED)
    labels[hidden] = ids[hidden]
    shown[hidden[:num_masked]] = mask
    others = hidden[num_masked : num_masked + num_random]
    shown[others] = generator.integers(vocabulary, size=len(others))
    return shown, labels
