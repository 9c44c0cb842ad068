"""Test texts translated into the source language: whether they go with the originals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ... import DataError
from ...data import TokenStore
from ..recipe.config import TargetConfig
from .datasets import Datasets

LISTED = 20


def translated_test(data: Datasets, target: TargetConfig) -> TokenStore:
    """The translated test file of a target, in the language of [source].

    Raises:
        DataError: it has not one text for each of `targets.N.test`, or (classification) not its label; all of them.
    """
    assert target.translated_test is not None
    store = data.scored(target.translated_test, data.config.source.language)
    if target.test is None:
        return store
    original = data.scored(target.test, target.language)
    gold = None
    if data.config.task == "classification":
        gold = np.asarray(store.item_labels).tolist(), np.asarray(original.item_labels).tolist()
    faults = misfits(len(store), len(original), gold, str(target.test))
    if faults:
        raise DataError("\n".join(f"{target.translated_test}:1: {fault}" for _, fault in faults))
    return store


def misfits(
    count: int, expected: int, gold: tuple[Sequence[object], Sequence[object]] | None, other: str
) -> list[tuple[int | None, str]]:
    """What keeps a translated test file from standing for the original: text number, from 0, and message.

    Args:
        count, expected: texts in the translation and in the original.
        gold: labels of both, where each text has one. Tags of words cannot be compared.
        other: name of the original file.
    """
    if count != expected:
        return [(None, f"has {count} texts, {other} has {expected}; translate the test file line by line")]
    differing = [] if gold is None else [i for i, (a, b) in enumerate(zip(*gold, strict=True)) if a != b]
    faults: list[tuple[int | None, str]] = [
        (i, f"text number {i + 1} has another label than in {other}; keep the order and the labels of the test file")
        for i in differing[:LISTED]
    ]
    if len(differing) > LISTED:
        faults.append((None, f"{len(differing)} labels differ in all, the first {LISTED} listed"))
    return faults
