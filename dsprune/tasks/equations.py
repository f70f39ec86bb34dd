"""Word problems: an encoder reads the question, and a small transformer generates the equation in prefix form."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Self

from datasets import Dataset
from transformers import (
    AutoModel,
    AutoModelForSeq2SeqLM,
    BertConfig,
    BertLMHeadModel,
    EncoderDecoderConfig,
    EncoderDecoderModel,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from dsprune.errors import UserError
from dsprune.model.fit import PAIRS, check_keeps_head
from dsprune.model.pretrained import load_config, load_model
from dsprune.recipe import Task as TaskSettings
from dsprune.tasks.prefix import SLOT, evaluate_prefix, symbols_of
from dsprune.tasks.rows import Column, Rows, names_of, number_of
from dsprune.tasks.seq2seq import Seq2Seq
from dsprune.tasks.source import Benchmark, Split

__all__ = ["COLUMNS", "EquationGeneration"]

PAD, BEGIN, END = range(3)
"""The first tokens of the decoder's vocabulary; the symbols follow."""

NUM_SPECIAL = 3

MAX_SLOTS = 7
"""Largest number of slots in a question of the benchmarks."""

MAX_EQUATION = 32
"""Longest equation, in symbols; the benchmarks' longest has 15."""

DECODER_LAYERS = 2

COLUMNS = (
    Column("Question", "a text with `number0`, `number1`, ... in place of its numbers", "text"),
    Column("Numbers", "these numbers, separated by spaces"),
    Column("Equation", "the equation in prefix form"),
    Column("Answer", "its value, to find mistakes in the data", needed=False),
)

ROUNDING = 1e-3
"""Tolerance between an answer in the files and the value of its equation: some are rounded to three digits."""

TOLERANCE = 1e-4
"""Tolerance between the values of two equal equations, as in SMC-Bench's own evaluation."""


@dataclass(frozen=True)
class EquationGeneration(Seq2Seq):
    """Equation generation: input is a question with slots `number0`, ..., output an equation in prefix form.

    The encoder can be any model. The decoder has two layers of the encoder's width, and generates operators, slots
    and the constants of the training equations. An output is correct if it has the value of the gold equation.

    Attributes:
        known_symbols: the symbols of the decoder's vocabulary; None = those of the training data.
    """

    settings: TaskSettings
    known_symbols: tuple[str, ...] | None = None
    benchmark: Benchmark | None = None

    uses = (*Seq2Seq.uses, "decoder")

    only_for_score = ("equation", "numbers")

    trained_config: ClassVar[type[PretrainedConfig]] = EncoderDecoderConfig
    """The configuration of a model with the decoder."""

    @cached_property
    def symbols(self) -> tuple[str, ...]:
        """The symbols of the decoder's vocabulary, in the order of its classes."""
        if self.known_symbols is not None:
            return self.known_symbols
        data = self.load("train")
        equations, numbers = data["equation"][:], data["numbers"][:]
        return self.symbols_in(equations, max(map(len, numbers), default=0))

    def symbols_in(self, equations: Sequence[Sequence[str]], num_slots: int) -> tuple[str, ...]:
        """Return the symbols that the decoder needs for these equations."""
        return symbols_of(equations, num_slots)

    def max_new_tokens(self) -> int:
        """Return the largest number of symbols to generate."""
        return min(self.settings.max_target, MAX_EQUATION)

    def for_model(self, config: PretrainedConfig) -> Self:
        """Use the symbols of the model if there are no training data."""
        symbols = getattr(config, "equation_symbols", None)
        if symbols and self.settings.train is None and self.settings.folder is None:
            return replace(self, known_symbols=tuple(symbols))
        return self

    def columns(self) -> tuple[Column, ...]:
        """Return the columns of SMC-Bench's files."""
        return COLUMNS

    def load(self, split: Split) -> Dataset:
        """Read the questions, their numbers and the gold equations; each equation must have a value."""
        rows = self.rows(split)
        question, numbers_of, equation_of, _ = names_of(COLUMNS, self.settings)
        numbers = rows.converted(
            numbers_of, lambda text: list(map(number_of, text.split())), "a list of numbers"
        )
        equations = [equation.split() for equation in rows.texts(equation_of)]
        _check_equations(rows, equations, numbers)
        questions = rows.texts(question, "task.text")
        return Dataset.from_dict({"question": questions, "numbers": numbers, "equation": equations})

    def remarks(self, split: Split) -> list[str]:
        """List the rows whose gold equation differs from the answer in the file by more than rounding."""
        rows, data = self.rows(split), self.load(split)
        if not rows.has("Answer"):
            return []
        wrong = [
            str(row)
            for row, (answer, equation, numbers) in enumerate(
                zip(rows.numbers("Answer"), data["equation"][:], data["numbers"][:], strict=True), start=1
            )
            if not math.isclose(
                answer, evaluate_prefix(equation, numbers) or 0, rel_tol=ROUNDING, abs_tol=ROUNDING
            )
        ]
        return [f"the equation does not give the answer in rows {', '.join(wrong)}"] if wrong else []

    def encode(
        self, tokenizer: PreTrainedTokenizerBase, rows: Mapping[str, list[Any]]
    ) -> dict[str, list[Any]]:
        """Tokenize the question and number the equation's symbols; symbols unknown in training become `END`."""
        features = tokenizer(rows["question"], truncation=True, max_length=self.settings.max_length)
        classes = {symbol: NUM_SPECIAL + place for place, symbol in enumerate(self.symbols)}
        return {
            "input_ids": features["input_ids"],
            "attention_mask": features["attention_mask"],
            "labels": [[*(classes.get(one, END) for one in equation), END] for equation in rows["equation"]],
            "length": list(map(len, features["input_ids"])),
            **{name: rows[name] for name in self.only_for_score},
        }

    def build_model(
        self, path: str, tokenizer: PreTrainedTokenizerBase, *, new_head: bool = True
    ) -> PreTrainedModel:
        """Open an encoder and add a new decoder, or open both from a model that was trained for this task."""
        check_keeps_head()
        config = load_config(path)
        if isinstance(config, PAIRS):
            self._check_trained(path, config)
            return load_model(
                AutoModelForSeq2SeqLM, path, tokenizer, self.settings.max_length, new_head=False
            )
        if not new_head:
            raise UserError(f"model {path!r}: has no decoder for equations: fine-tune it first")
        encoder = load_model(AutoModel, path, tokenizer, self.settings.max_length, new_head=False)
        return self.with_decoder(encoder, self.symbols)

    def _check_trained(self, path: str, config: PretrainedConfig) -> None:
        if config.model_type != self.trained_config.model_type:
            raise UserError(
                f"task.decoder: {self.settings.decoder}: model {path!r} has another decoder: name that, or choose an "
                f"encoder without one"
            )
        if tuple(getattr(config, "equation_symbols", ())) != self.symbols:
            raise UserError(
                f"model {path!r}: does not have the symbols {' '.join(self.symbols)}: choose a model that was "
                "trained on these data"
            )

    def new_model(self, config: PretrainedConfig) -> PreTrainedModel:
        """Return the encoder with its decoder."""
        if isinstance(config, PAIRS):
            model: PreTrainedModel = AutoModelForSeq2SeqLM.from_config(config)
            return model
        # Without data the constants are unknown; they are only a few classes of the decoder.
        has_data = self.known_symbols or self.settings.train or self.settings.folder
        symbols = self.symbols if has_data else self.symbols_in([], MAX_SLOTS)
        return self.with_decoder(AutoModel.from_config(config), symbols)

    def with_decoder(self, encoder: PreTrainedModel, symbols: Sequence[str]) -> PreTrainedModel:
        """Return the encoder with a new decoder for these symbols."""
        width = encoder.config.hidden_size
        decoder = BertConfig(
            vocab_size=NUM_SPECIAL + len(symbols),
            hidden_size=width,
            num_hidden_layers=DECODER_LAYERS,
            num_attention_heads=encoder.config.num_attention_heads,
            intermediate_size=4 * width,
            max_position_embeddings=2 * MAX_EQUATION,
            pad_token_id=PAD,
            is_decoder=True,
            add_cross_attention=True,
        )
        model = EncoderDecoderModel(encoder=encoder, decoder=BertLMHeadModel(decoder))
        model.config.equation_symbols = list(symbols)
        special = {"decoder_start_token_id": BEGIN, "eos_token_id": END, "pad_token_id": PAD}
        for name, token in special.items():
            setattr(model.config, name, token)
            setattr(model.generation_config, name, token)
        return model

    def score(self, predictions: Sequence[Sequence[int]], dataset: Dataset) -> dict[str, float]:
        """Return the fraction of equations that have the gold equation's value."""
        num_correct = 0
        for tokens, gold, numbers in zip(
            predictions, dataset["equation"][:], dataset["numbers"][:], strict=True
        ):
            value = evaluate_prefix(self.symbols_of_output(tokens), numbers)
            expected = evaluate_prefix(gold, numbers)
            num_correct += value is not None and expected is not None and abs(value - expected) < TOLERANCE
        return {"value_accuracy": num_correct / len(dataset)}

    def symbols_of_output(self, tokens: Sequence[int]) -> list[str]:
        """Return the symbols that were generated before the end."""
        tokens = list(tokens)
        end = tokens.index(END) if END in tokens else len(tokens)
        names = ("", "", "", *self.symbols)
        return [names[token] for token in tokens[:end]]


def _check_equations(
    rows: Rows, equations: Sequence[Sequence[str]], numbers: Sequence[Sequence[float]]
) -> None:
    for place, (equation, its_numbers) in enumerate(zip(equations, numbers, strict=True)):
        if evaluate_prefix(equation, its_numbers) is None:
            raise UserError(
                f"{rows.where(place)}: {' '.join(equation)!r} has no value with {len(its_numbers)} numbers: "
                f"give an equation in prefix form, of + - * /, {SLOT}0, {SLOT}1, ... and constants"
            )
        if len(equation) >= MAX_EQUATION:
            raise UserError(f"{rows.where(place)}: {len(equation)} symbols: shorten it to {MAX_EQUATION - 1}")
