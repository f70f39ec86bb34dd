"""Load a checkpoint into an engine: check its files, load or reshard, then load the masks and random states."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from deepspeed import DeepSpeedEngine

from dsprune.checkpoint.deepspeed_files import explain_damage
from dsprune.checkpoint.pruning_state import PruningState
from dsprune.checkpoint.rank_state import read_rank_state
from dsprune.checkpoint.reshard import reshard, topology_changes
from dsprune.checkpoint.saved_masks import load_masks
from dsprune.checkpoint.sparse_start import MasksFrom, check_masks_from, mask_zeros, start_from_masks
from dsprune.checkpoint.tags import check_tag, latest_tag, tag_name
from dsprune.errors import UserError
from dsprune.masks.accumulator_files import declared_dtypes
from dsprune.masks.manifest import MANIFEST
from dsprune.ranks.agreement import on_every_rank
from dsprune.ranks.group import announce
from dsprune.utils.randomness import restore_random_state

__all__ = ["check_target", "load_checkpoint"]

NO_UNIVERSAL = (
    "is not supported, because a checkpoint of another stage or number of ranks is resharded without it"
)


def load_checkpoint(
    engine: DeepSpeedEngine,
    load: Callable[..., Any],
    state: PruningState | None,
    load_dir: Path,
    tag: Any,
    masks_from: MasksFrom | None,
    **options: Any,
) -> Any:
    """Load a checkpoint of dsprune, or of DeepSpeed without dsprune. Collective: every rank must call this.

    Args:
        engine: the engine whose weights, moments and counters are set.
        load: DeepSpeed's loader of this engine.
        state: the state whose masks are set; None for an engine that does not prune.
        load_dir: folder of the tags.
        tag: a tag; None loads the latest.
        masks_from: what to do with a checkpoint without masks.
        **options: passed to DeepSpeed's loader.

    Raises:
        UserError: a file is damaged, the checkpoint has no masks, they do not belong to its weights or to this run,
            or DeepSpeed cannot load it.
    """
    check_masks_from(masks_from)
    if engine.load_universal_checkpoint():
        raise UserError(f"ds_config: checkpoint.load_universal=True {NO_UNIVERSAL}: leave it out")
    tag = on_every_rank(lambda: latest_tag(load_dir) if tag is None else tag_name(tag))
    if tag is None:
        return load(str(load_dir), load_lr_scheduler_states=False, **options)
    folder = load_dir / tag
    if (folder / "zero").is_dir():
        raise UserError(
            f"{folder}: a universal checkpoint {NO_UNIVERSAL}: load the one that it was made from"
        )
    check_tag(folder)
    if state is not None and masks_from is None and not (folder / MANIFEST).is_file():
        raise UserError(
            f"{folder}: no {MANIFEST}, so no masks: copy both too, or use masks_from=zeros (--masks-from zeros) to "
            f"make masks of the weights' exact zeros, or masks_from=none to start dense"
        )
    loaded = _load_weights(engine, load, load_dir, tag, options)
    module_only = bool(options.get("load_module_only"))
    if state is not None:
        step = int(engine.global_steps - engine.skipped_steps)
        _load_state(state, folder, step, masks_from, module_only=module_only)
    if not module_only:
        on_every_rank(lambda: _restore_random_state(folder))
    return loaded


def _load_state(
    state: PruningState, folder: Path, step: int, masks_from: MasksFrom | None, *, module_only: bool
) -> None:
    """Set masks and accumulators for the loaded weights. Collective: every rank must call this."""
    if (folder / MANIFEST).is_file():
        if not module_only:
            load_masks(folder, state, step)
            return
        start_from_masks(state, folder, step)
    else:
        if masks_from == "zeros":
            mask_zeros(state, str(folder), step)
        else:
            state.clear()
        check_target(state, str(folder), step, "start the recipe at step 0 with load_module_only=True")
    _reset_accumulators(state, folder, step)


def _reset_accumulators(state: PruningState, folder: Path, step: int) -> None:
    """Reset the accumulators of the pruning method, and print it if the run has begun.

    Collective: every rank must call this.
    """
    state.reset_accumulators(step)
    names = ", ".join(declared_dtypes(state.accumulators))
    if step and names:
        announce(f"{folder}: pruning.method={state.pruning.method}: {names} begins at zero")


def _restore_random_state(folder: Path) -> None:
    if (random_state := read_rank_state(folder)) is not None:
        with explain_damage(folder):
            restore_random_state(random_state)


def check_target(state: PruningState, where: str, step: int, way_out: str) -> None:
    """Check that a mask update is still to come at a step, or that the target is already reached.

    Raises:
        UserError: neither; the message names the weights by `where`, and ends with `way_out`.
    """
    if not state.timetable.updates or step <= (last := state.timetable.updates[-1]).step:
        return
    if state.num_pruned != sum(group.num_pruned for group in state.groups(last)):
        raise UserError(
            f"{where}: it is at step {step} with a sparsity of {state.sparsity:.4f}, and the last mask update to "
            f"{last.sparsity:g} is at step {last.step}: {way_out}"
        )


def _load_weights(
    engine: DeepSpeedEngine, load: Callable[..., Any], load_dir: Path, tag: str, options: dict[str, Any]
) -> Any:
    """Load weights, moments and counters, resharded if needed. Collective: every rank must call this."""
    folder = load_dir / tag
    module_only = options.get("load_module_only", False)
    with_moments = options.get("load_optimizer_states", True) and not module_only
    if not with_moments:
        engine.basic_optimizer.state.clear()
    # At stage 3, DeepSpeed's loader does not change the weights when it loads only the module.
    changes = topology_changes(engine, folder)
    if changes or (module_only and engine.zero_optimization_partition_weights()):
        if options.get("custom_load_fn") is not None:
            raise UserError(
                f"load_checkpoint: custom_load_fn is not called for {folder}, which is resharded "
                f"({', '.join(changes) or 'load_module_only at ZeRO stage 3'}): leave it out"
            )
        strict = options.get("load_module_strict", True)
        return reshard(engine, folder, moments=with_moments, counters=not module_only, strict=strict)

    def attempt() -> Any:
        try:
            return load(str(load_dir), tag=tag, load_lr_scheduler_states=False, **options)
        except (RuntimeError, LookupError, TypeError, ValueError, AttributeError, AssertionError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"{folder}: DeepSpeed cannot load it into this engine ({reason}): it was written with another model, "
                f"other parameter groups or another optimizer: use the same, or load_module_only=True"
            ) from error

    return on_every_rank(attempt)
