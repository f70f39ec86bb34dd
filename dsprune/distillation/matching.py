"""Check that a store matches a recipe, and open it."""

from pathlib import Path

import torch

from dsprune.distillation.capture.forward import Source
from dsprune.distillation.store import Store, StoreSpec, check_origin, open_store
from dsprune.errors import UserError
from dsprune.ranks.agreement import on_every_rank
from dsprune.recipe import Distillation

__all__ = ["check_fit", "open_matching_store"]


def open_matching_store(
    folder: Path, settings: Distillation, source: Source, device: torch.device, *, verify: bool = True
) -> Store:
    """Open a complete store and check that it matches the recipe. Collective: every rank must call this.

    Args:
        folder: the store.
        settings: the recipe's section.
        source: the expected input of the store.
        device: device of the heads of kind `hidden`.
        verify: compare checksums, see `open_store`.

    Raises:
        UserError: the store is damaged or incomplete, was made from another source, lacks an example, or is not of the
            kind in the recipe.
    """
    store = on_every_rank(lambda: open_store(folder, source.origin, verify=verify, device=device))
    missing = store.missing(source.samples)
    if missing:
        if store.manifest.index is None:
            store.check()  # because a damaged fingerprint looks like a missing record
        raise UserError(
            f"{folder}: {len(missing):,} of {len(source.samples):,} training examples have no record, the first "
            f"in row {missing[0] + 1}: the store is of dataset {store.manifest.origin.get('dataset')}, this is "
            f"{source.dataset}: give another distillation.store, which is then made for these data"
        )
    check_fit(folder, store.manifest.spec, settings)
    return store


def check_fit(folder: Path, spec: StoreSpec, settings: Distillation) -> None:
    """Check that a store has the recipe's kind; fields that the recipe does not set are not compared.

    Raises:
        UserError: a field differs, or the store does not hold a temperature; both values are named.
    """
    relevant = {"kind", "dtype", "k"} if spec.kind == "topk" else {"kind", "dtype"}
    expected = {name: str(getattr(settings, name)) for name in sorted(settings.model_fields_set & relevant)}
    if settings.kind == "auto":
        expected.pop("kind", None)
    check_origin(folder, {name: str(value) for name, value in spec}, expected)
    if spec.kind == "topk":
        _check_temperatures(folder, spec.temperatures, settings)


def _check_temperatures(folder: Path, stored: tuple[float, ...], settings: Distillation) -> None:
    names = ", ".join(f"{temperature:g}" for temperature in stored)
    way_out = f"{folder} is of kind topk and holds {names} only: use one of them, or make another store"
    ramp = settings.temperature
    if not ramp.is_constant:
        raise UserError(f"distillation.temperature: from {ramp.first:g} to {ramp.final:g}: {way_out}")
    for temperature in settings.stored_temperatures:
        if temperature not in stored:
            raise UserError(f"distillation.temperature: value {temperature:g}: {way_out}")
