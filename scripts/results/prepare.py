"""Lay out the benchmarks' files for the results page: `python scripts/results/prepare.py SOURCE`.

SOURCE holds `commonsenseqa/`, `multi30k/`, `mwp/` and `xquad/`, each with the files that its authors publish
(`docs/results-0.1.md` lists them). They are copied to data/benchmarks. XQuAD is split by paragraph. For Multi30k a
sentencepiece model is trained on the training captions, and a small untrained mBART is written with it.
"""

import io
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from transformers import MBart50Tokenizer, MBartConfig, MBartForConditionalGeneration

from dsprune.tasks.text_files import lines_of

HOME = Path("data/benchmarks")
PIECES = 6000
LONGEST = 64


def split_by_paragraph(source: Path, folder: Path) -> None:
    """Write every fifth paragraph to the validation split, so that no text is in both parts."""
    articles = json.loads(source.read_text(encoding="utf-8"))["data"]
    paragraphs = [paragraph for article in articles for paragraph in article["paragraphs"]]
    parts: dict[str, list[Any]] = {"train": [], "validation": []}
    for number, paragraph in enumerate(paragraphs):
        parts["train" if number % 5 else "validation"].append(paragraph)
    for name, chosen in parts.items():
        data = {"version": "1.1", "data": [{"title": "XQuAD", "paragraphs": chosen}]}
        (folder / f"{name}.json").write_text(json.dumps(data), encoding="utf-8")


def unigrams(texts: list[str]) -> MBart50Tokenizer:
    """Train a sentencepiece model of the captions, with mBART-50's language codes."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=model,
        vocab_size=PIECES,
        model_type="unigram",
        minloglevel=2,
    )
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    scored = [(pieces.id_to_piece(i), pieces.get_score(i)) for i in range(pieces.get_piece_size())]
    return MBart50Tokenizer(vocab=scored, model_max_length=LONGEST)


def small_mbart(tokenizer: MBart50Tokenizer) -> MBartForConditionalGeneration:
    """Return an untrained mBART with three encoder and three decoder layers."""
    torch.manual_seed(1)
    return MBartForConditionalGeneration(
        MBartConfig(
            vocab_size=len(tokenizer),
            max_position_embeddings=LONGEST,
            d_model=256,
            encoder_layers=3,
            decoder_layers=3,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=1024,
            decoder_ffn_dim=1024,
            scale_embedding=True,
            forced_eos_token_id=None,
        )
    )


def main(source: Path) -> None:
    """Make the files that the recipes of the results page name."""
    for name in ("commonsenseqa", "multi30k", "mwp", "xquad"):
        shutil.copytree(source / name, HOME / name, dirs_exist_ok=True, copy_function=shutil.copyfile)
    split_by_paragraph(HOME / "xquad" / "xquad.en.json", HOME / "xquad")
    captions = [line for code in ("en", "de") for line in lines_of(HOME / "multi30k" / f"train.{code}.gz")]
    tokenizer = unigrams(captions)
    tokenizer.save_pretrained(HOME / "multi30k" / "mbart")
    small_mbart(tokenizer).save_pretrained(HOME / "multi30k" / "mbart")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
