"""Whether a store is what a recipe asks for, beyond what it is made from."""

from pathlib import Path

from dsprune.errors import UserError
from dsprune.pure.recipe import Distillation
from dsprune.pure.store import StoreSpec, check_origin

__all__ = ["check_fit"]


def check_fit(folder: Path, spec: StoreSpec, settings: Distillation) -> None:
    """Compare what a store holds with what the recipe asks for by name; what it leaves open, any store may be.

    Raises:
        UserError: something differs, or the store does not know a temperature; both sides are named.
    """
    asked = settings.model_fields_set & ({"kind", "dtype", "k"} if spec.kind == "topk" else {"kind", "dtype"})
    wanted = {name: str(getattr(settings, name)) for name in sorted(asked)}
    if settings.kind == "auto":
        wanted.pop("kind", None)
    check_origin(folder, {name: str(value) for name, value in spec}, wanted)
    if spec.kind == "topk":
        _check_temperatures(folder, spec.temperatures, settings)


def _check_temperatures(folder: Path, known: tuple[float, ...], settings: Distillation) -> None:
    names = ", ".join(f"{temperature:g}" for temperature in known)
    knows = f"{folder} is of kind topk and knows {names} only: use one of them, or make another store"
    ramp = settings.temperature
    if not ramp.is_constant:
        raise UserError(f"distillation.temperature: from {ramp.first:g} to {ramp.final:g}: {knows}")
    for temperature in settings.stored_temperatures:
        if temperature not in known:
            raise UserError(f"distillation.temperature: value {temperature:g}: {knows}")
