"""The stores of co-training and of contrastive adaptation."""

from __future__ import annotations

import numpy as np

from ... import DataError
from ...data import TokenStore
from ..plan import Stage
from ..stages.context import Context


def pools_of(context: Context, stage: Stage) -> dict[str, TokenStore]:
    """The unlabelled text that a stage may pick from: of its target, or of all of them."""
    wanted = [t for t in context.config.targets if stage.target in (None, t.language)]
    return {target.language: context.data.target_pool(target) for target in wanted}


def translations_of(context: Context) -> dict[str, TokenStore]:
    """The translated, labelled source texts, by language."""
    given = context.config.contrastive.translations
    return {language: context.data.labelled(path, language) for language, path in sorted(given.items())}


def originals_of(context: Context) -> TokenStore:
    """The source texts of the translations.

    Raises:
        DataError: a file of translations has not one text for each original, or not its label.
    """
    table = context.config.contrastive
    assert table.originals is not None
    originals = context.data.labelled(table.originals, context.config.source.language)
    gold = np.asarray(originals.item_labels)
    for language, store in translations_of(context).items():
        path = table.translations[language]
        if len(store) != len(originals):
            raise DataError(
                f"{path}:1: has {len(store)} texts, {table.originals} has {len(originals)}; give them line by line"
            )
        differing = np.flatnonzero(np.asarray(store.item_labels) != gold)
        if len(differing):
            raise DataError(
                f"{path}:1: text number {differing[0] + 1} has another label than that of {table.originals}; "
                "give the translations in the order of the originals"
            )
    return originals
