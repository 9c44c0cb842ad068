"""Cloze prompts: a text in a template with a blank, as in "{text} It was {mask}."."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ... import ConfigError, DataError
from .wrapper import Tokenizer, longest_first

_FIELD = re.compile(r"\{([^{}]*)\}")
_FIELDS = ("text", "pair", "mask")


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """One tokenised prompt.

    Attributes:
        ids: token ids, [CLS] first and [SEP] last; all in one segment.
        mask: index into `ids` of the blank.
        cut_tokens: number of tokens of the text, or of the pair, that the maximum length cut.
    """

    ids: list[int]
    mask: int
    cut_tokens: int


class Prompt:
    """A template with `{text}` and `{mask}` once each, and `{pair}` where there are pairs of texts.

    Every part is tokenised by itself, so that a blank, text and words of the template never melt into one token. A
    prompt that is too long loses the end of its text, never a part of the template.

    Raises:
        ConfigError: a field is missing, unknown, or there twice.
    """

    def __init__(self, template: str) -> None:
        problem = template_problem(template)
        if problem is not None:
            raise ConfigError(f"template {template!r} {problem}")
        self.template = template
        pieces = _FIELD.split(template)  # literal, field, literal, ...
        self.has_pair = "pair" in pieces[1::2]
        self._parts = [(piece if i % 2 else "", "" if i % 2 else piece.strip()) for i, piece in enumerate(pieces)]

    def encode(
        self,
        tokenizer: Tokenizer,
        texts: Sequence[str],
        pairs: Sequence[str | None] | None = None,
        *,
        max_length: int | None = None,
    ) -> list[EncodedPrompt]:
        """Tokenises texts, or pairs of texts, in the template.

        Raises:
            ConfigError: the template alone does not fit into `max_length`.
            DataError: there is a pair and no `{pair}`, or the other way round.
        """
        given = [None] * len(texts) if pairs is None else list(pairs)
        if any((pair is not None) != self.has_pair for pair in given):
            what = "texts come alone, but the template has" if self.has_pair else "texts come in pairs, but it has no"
            raise DataError(f"template {self.template!r}: {what} {{pair}}; change the template, or the data")
        fixed = [_ids(tokenizer, [literal])[0] if literal else [] for _, literal in self._parts]
        room = (max_length or 2**31) - 3 - sum(map(len, fixed))
        if room < 1:
            raise ConfigError(f"max_length {max_length} leaves no room for text beside the template {self.template!r}")
        second = _ids(tokenizer, [pair or "" for pair in given]) if self.has_pair else [[]] * len(texts)
        return [
            self._join(tokenizer, fixed, text, pair, room)
            for text, pair in zip(_ids(tokenizer, texts), second, strict=True)
        ]

    def _join(
        self, tokenizer: Tokenizer, fixed: list[list[int]], text: list[int], pair: list[int], room: int
    ) -> EncodedPrompt:
        first, second = longest_first(len(text), len(pair), room)
        values = {"text": text[:first], "pair": pair[:second], "mask": [tokenizer.mask_id]}
        ids, mask = [tokenizer.cls_id], 0
        for (name, _), literal in zip(self._parts, fixed, strict=True):
            mask = len(ids) if name == "mask" else mask
            ids += values.get(name, literal)
        return EncodedPrompt([*ids, tokenizer.sep_id], mask, len(text) + len(pair) - first - second)


def template_problem(template: str) -> str | None:
    """What is wrong with a template, as the rest of a sentence; None where nothing is."""
    found = _FIELD.findall(template)
    unknown = [name for name in found if name not in _FIELDS]
    if unknown:
        return f"has {{{unknown[0]}}}; the fields are {{text}}, {{mask}} and, for pairs, {{pair}}"
    twice = [name for name in _FIELDS if found.count(name) > 1]
    if twice:
        return f"has {{{twice[0]}}} twice; give it once"
    missing = [name for name in ("text", "mask") if name not in found]
    return f"has no {{{missing[0]}}}; give it once" if missing else None


def _ids(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """The ids of each text without special tokens around it."""
    return [encoded.ids[1:-1] for encoded in tokenizer.encode_texts(texts)]
