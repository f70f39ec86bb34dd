"""Prepare a DeepSpeed engine for pruning: check it, and make its first masks."""

from deepspeed import DeepSpeedEngine
from torch.nn.parallel import DataParallel, DistributedDataParallel

from dsprune.checkpoint.pruning_state import PruningState
from dsprune.engine.learning_rate import check_no_scheduler
from dsprune.errors import UserError
from dsprune.methods.checks import check_pruning
from dsprune.model.prunable import describe_dense, describe_outside
from dsprune.model.ties import describe_ties
from dsprune.model.wrappers import check_no_adapter, check_not_compiled
from dsprune.ranks.group import announce
from dsprune.recipe import Pruning, Recipe
from dsprune.schedule import Timetable
from dsprune.selection.weights import weights_to_prune
from dsprune.zero.agreement import check_settings
from dsprune.zero.limits import check_engine, check_optimizer_state, optimizer_kind
from dsprune.zero.parameters import check_precision, full_shape, is_mixed
from dsprune.zero.stages import open_layout

__all__ = ["check_attachable", "check_is_engine", "initial_state", "loader_steps_per_epoch"]


def check_is_engine(engine: object, pruning_engine: type[DeepSpeedEngine]) -> None:
    """Check that an object is a DeepSpeed engine that does not prune yet.

    Raises:
        UserError: it is a module, or prunes already.
    """
    if not isinstance(engine, DeepSpeedEngine):
        raise UserError(
            f"engine: a {type(engine).__name__}, not a DeepSpeedEngine: give what deepspeed.initialize returns, or "
            f"call dsprune.initialize with the module"
        )
    if isinstance(engine, pruning_engine):
        raise UserError("engine: a PruningEngine: it prunes already, by the recipe that it was made with")


def check_attachable(engine: DeepSpeedEngine, recipe: Recipe) -> None:
    """Check that an engine can prune by a recipe.

    Raises:
        UserError: dsprune does not support a part of the engine, the engine has its own scheduler, or its settings
            disagree with the recipe; the message names all of them.
    """
    check_engine(engine)
    if type(engine) is not DeepSpeedEngine:
        raise UserError(
            f"engine: {type(engine).__name__} is not supported: give the DeepSpeedEngine that deepspeed.initialize "
            f"returns"
        )
    if isinstance(engine.module, DataParallel | DistributedDataParallel):
        raise UserError(
            f"model: it is in a {type(engine.module).__name__}, and DeepSpeed reduces the gradients itself: give "
            f"deepspeed.initialize the module inside, model.module"
        )
    check_no_adapter(engine.module)
    if engine.zero_optimization_partition_weights():
        check_not_compiled(engine.module)
        if (ties := describe_ties(engine.module)) is not None:
            announce(ties)
    check_no_scheduler(engine)
    check_settings(engine, recipe)
    check_precision(engine.module, mixed=is_mixed(engine))
    if recipe.pruning is not None:
        check_pruning(recipe.pruning)
        check_optimizer_state(optimizer_kind(engine.basic_optimizer), recipe.pruning.method)


def initial_state(
    engine: DeepSpeedEngine, pruning: Pruning | None, timetable: Timetable
) -> PruningState | None:
    """Return dense masks of the prunable weights; None for a recipe without pruning.

    Collective: every rank must call this.
    """
    if pruning is None:
        return None
    choice = weights_to_prune(engine.module, pruning, shape_of=full_shape)
    if choice.dense:
        announce(describe_dense(choice))
    if outside := describe_outside(choice):
        announce(outside)
    return PruningState(open_layout(engine, choice.tensors), pruning, timetable)


def loader_steps_per_epoch(engine: DeepSpeedEngine) -> int | None:
    """Return the optimizer steps in one pass of the engine's own data loader; None if it has none or no length."""
    try:
        return int(len(engine.training_dataloader) // engine.gradient_accumulation_steps())
    except TypeError:  # no loader, or one over an iterable dataset
        return None
