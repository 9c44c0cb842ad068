"""The words of examples of a store: from their file where it still has them, else as the tokens tell."""

from __future__ import annotations

from collections.abc import Iterable

from ....data import Example, Tokenizer, TokenStore
from ....tasks import per_word


def is_example(example: Example, store: TokenStore, number: int, tokenizer: Tokenizer) -> bool:
    """Whether an example of a file is that of a store: of the same id, and giving the same tokens."""
    if example.id != store.example_ids[number] or (per_word(store.task) and example.words is None):
        return False
    length = None if store.whole else store.max_length
    if example.words is not None:
        ids = tokenizer.encode_words([example.words], max_length=length)[0].ids
    else:
        ids = tokenizer.encode_texts([str(example.text)], [example.pair], max_length=length)[0].ids
    return bool(list(ids) == store.ids(number).tolist())


def words_of(example: Example) -> tuple[str, ...]:
    """The words (tagging), or the one text."""
    if example.words is not None:
        return example.words
    return (str(example.text) if example.pair is None else f"{example.text} | {example.pair}",)


def decoded(store: TokenStore, number: int, tokenizer: Tokenizer) -> tuple[str, ...]:
    """The words or the text as far as the tokens tell."""
    ids = store.ids(number).tolist()
    if not per_word(store.task):
        return (tokenizer.decode(ids[1:-1]),)
    words = ["?"] * int(store.num_words[number])
    positions, numbers = (array.tolist() for array in store.items(number))
    for start, end, word in zip(positions, [*positions[1:], len(ids) - 1], numbers, strict=True):
        words[word] = tokenizer.decode(ids[start:end])
    return tuple(words)


def texts_of(
    store: TokenStore, numbers: Iterable[int], examples: Iterable[Example], tokenizer: Tokenizer
) -> dict[int, tuple[str, ...]]:
    """The words of some examples of a store.

    Args:
        examples: of the files that the store may have been made of.
    """
    texts = {number: decoded(store, number, tokenizer) for number in numbers}
    by_id = {store.example_ids[number]: number for number in texts}
    for example in examples:
        number = by_id.get(example.id)
        if number is not None and is_example(example, store, number, tokenizer):
            texts[number] = words_of(example)
    return texts
