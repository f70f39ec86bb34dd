"""Models that are sparse before the run: their zeros are kept or released, but never lost without a message."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dsprune.checkpoint.tags import complete_tags
from dsprune.commands.cli import run_command
from dsprune.masks.manifest import MANIFEST, read_manifest
from dsprune.train.run_folder import RunFolder
from tests.system.resuming import Workshop, make_workshop

JUST_BEGIN = "--stop-after=0"
GROWS = "pruning={sparsity: 0.9, first: 0.6, start: 10, end: 30, updates: 3}"


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return make_workshop(tmp_path_factory.mktemp("sparse"))


@pytest.fixture(scope="module")
def sparse(workshop: Workshop) -> Path:
    """A plain Hugging Face folder in which half of the encoder's matrices are zero, here and there -0.0."""
    folder = Path(shutil.copytree(workshop.folder / "bert", workshop.folder / "half"))
    tensors = load_file(folder / "model.safetensors")
    for name, tensor in tensors.items():
        if "encoder" in name and tensor.dim() == 2:
            flat = tensor.view(-1)
            lowest = flat.abs().argsort()[: flat.numel() // 2]
            flat[lowest] *= 0.0  # keeps the signs
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def begin(workshop: Workshop, name: str, model: Path, *arguments: str) -> tuple[int | None, str, RunFolder]:
    """Exit code and messages of a run that stops after its first steps."""
    words = [f"model.path={model}", JUST_BEGIN, *arguments]
    ranks = workshop.start(name, *words, world_size=1)
    [code] = ranks.wait()
    return code, ranks.said(), workshop.run(name)


def zeros_of(folder: Path) -> dict[str, torch.Tensor]:
    tensors = load_file(folder / "model.safetensors")
    return {name: tensor == 0 for name, tensor in tensors.items() if "encoder" in name and tensor.dim() == 2}


def test_a_sparse_model_is_refused_unless_it_is_said_what_becomes_of_its_zeros(
    workshop: Workshop, sparse: Path
) -> None:
    code, said, run = begin(workshop, "refused", sparse, GROWS)
    assert code == 2
    assert (
        f"dsprune: {sparse}: 50.0 % of its prunable weights are zero, and it has no masks: masks_from=zeros "
        f"(--masks-from zeros) keeps its zeros, masks_from=none lets them grow back"
    ) in said.splitlines()
    assert not run.path.exists()


def test_its_zeros_become_masks(workshop: Workshop, sparse: Path) -> None:
    code, said, run = begin(workshop, "taken", sparse, GROWS, "--masks-from=zeros")
    assert code == 75, said
    [tag] = complete_tags(run.checkpoints)
    expected = {name: int(zeros.sum()) for name, zeros in zeros_of(sparse).items()}
    assert {name: entry.num_pruned for name, entry in read_manifest(tag).tensors.items()} == expected
    assert run_command(["audit", str(run.path)]) == 0, "no zero came back, and none is -0.0"
    ranks = workshop.start("taken", f"model.path={sparse}", GROWS, world_size=1)
    assert ranks.wait() == [0], ranks.said()
    assert run_command(["audit", str(run.path)]) == 0
    before, after = zeros_of(sparse), zeros_of(run.model)
    assert all(bool(after[name][zeros].all()) for name, zeros in before.items()), (
        "what was pruned stays pruned"
    )


def test_an_update_that_asks_for_less_is_refused(workshop: Workshop, sparse: Path) -> None:
    code, said, _ = begin(workshop, "less", sparse, GROWS.replace("0.6", "0.3"), "--masks-from=zeros")
    assert code == 2
    assert (
        "sparsity 0.5000 at the start, but only 0.3000 at the mask update at step 10: raise pruning.first"
        in said
    )


def test_a_dense_recipe_would_lose_the_zeros(workshop: Workshop, sparse: Path) -> None:
    code, said, _ = begin(workshop, "dense", sparse, "pruning=null")
    assert code == 2
    assert (
        "pruning={sparsity: 0.5000, curve: one-shot, start: 0} with masks_from=zeros (--masks-from zeros) keeps its"
        in said
    )
    code, said, _ = begin(workshop, "dense", sparse, "pruning=null", "--masks-from=none")
    assert code == 75, said


def test_masks_that_dsprune_left_beside_a_model_are_taken_up(workshop: Workshop, sparse: Path) -> None:
    held = "pruning={sparsity: 0.5, curve: one-shot, start: 0}"
    ranks = workshop.start("held", f"model.path={sparse}", held, "--masks-from=zeros", world_size=1)
    assert ranks.wait() == [0], ranks.said()
    model = workshop.run("held").model
    assert (model / MANIFEST).is_file()
    assert all(torch.equal(zeros, zeros_of(model)[name]) for name, zeros in zeros_of(sparse).items())
    code, said, run = begin(workshop, "again", model, GROWS)
    assert code == 75, said
    assert f"starts with the zeros of {model}, 0.5000 of the prunable weights" in said
    assert run_command(["audit", str(run.path)]) == 0
