"""Cloze prompts: ids against the whole string tokenised at once, cuts by hand, and the items of stores."""

from pathlib import Path

import pytest

from xlt_engine import ConfigError, DataError
from xlt_engine.data import Example, Prompt, Tokenizer, build_store, train_wordpiece

TEXTS = ["The film was long.", "a (very) old city", "it's fine"]
TEMPLATES = ["{text} It was {mask}.", "{mask}! {text}", "Is it {mask}? Yes: ({text})"]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_wordpiece([*TEXTS, "It was good . Is it ? Yes : ( ) !"] * 3, 90)


def example(text: str, label: str | None, pair: str | None = None, line: int = 1) -> Example:
    return Example(f"x:{line}", "en", None, text, pair, label, "x.tsv", line)


@pytest.mark.parametrize("template", TEMPLATES)
def test_prompts_are_the_string_with_the_blank_filled(tokenizer: Tokenizer, template: str) -> None:
    found = Prompt(template).encode(tokenizer, TEXTS)
    for text, prompt in zip(TEXTS, found, strict=True):
        whole = template.replace("{text}", text).replace("{mask}", "[MASK]")
        assert (prompt.ids, prompt.ids[prompt.mask]) == (tokenizer.encode_texts([whole])[0].ids, tokenizer.mask_id)
        assert prompt.cut_tokens == 0


def test_pairs(tokenizer: Tokenizer) -> None:
    prompt = Prompt("{text} {mask}, {pair}")
    (found,) = prompt.encode(tokenizer, [TEXTS[0]], [TEXTS[1]])
    whole = f"{TEXTS[0]} [MASK], {TEXTS[1]}"
    assert found.ids == tokenizer.encode_texts([whole])[0].ids
    pytest.raises(DataError, prompt.encode, tokenizer, TEXTS).match(r"texts come alone, but the template has \{pair\}")
    with pytest.raises(DataError, match=r"texts come in pairs, but it has no \{pair\}"):
        Prompt(TEMPLATES[0]).encode(tokenizer, TEXTS, TEXTS)


def test_the_text_is_cut_and_never_the_template(tokenizer: Tokenizer) -> None:
    prompt, text = Prompt("{text} It was {mask}."), "The film was long " * 5
    (whole,) = prompt.encode(tokenizer, [text])
    tail = len(tokenizer.encode_texts(["It was [MASK]."])[0].ids) - 1
    (cut,) = prompt.encode(tokenizer, [text], max_length=tail + 4)
    assert (cut.ids, cut.cut_tokens) == ([*whole.ids[:4], *whole.ids[-tail:]], len(whole.ids) - len(cut.ids))
    assert cut.ids[cut.mask] == tokenizer.mask_id
    with pytest.raises(ConfigError, match="leaves no room for text beside the template"):
        prompt.encode(tokenizer, [text], max_length=tail + 1)
    # Of a pair the longer one goes first.
    (both,) = Prompt("{text} {mask} {pair}").encode(tokenizer, ["it fine it fine"], ["long"], max_length=8)
    assert len(both.ids) == 8
    assert tokenizer.decode(both.ids, skip_special=True).endswith("long")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{text} It was", r"has no \{mask\}; give it once"),
        ("It was {mask}", r"has no \{text\}; give it once"),
        ("{text} {mask} {mask}", r"has \{mask\} twice"),
        ("{text} {mask} {label}", r"has \{label\}; the fields are"),
    ],
)
def test_templates_that_are_refused(template: str, message: str) -> None:
    pytest.raises(ConfigError, Prompt, template).match(message)


def test_items_of_a_store_are_the_masks(tokenizer: Tokenizer, tmp_path: Path) -> None:
    examples = [example(text, "ab"[i % 2], line=i) for i, text in enumerate(TEXTS)]
    options = {"task": "classification", "labels": ("a", "b"), "max_length": 24}
    store = build_store(examples, tokenizer, folder=tmp_path / "s", prompt=TEMPLATES[0], **options)
    for i in range(len(store)):
        (position,), _ = store.items(i)
        assert (store.ids(i)[position], store.labels(i).tolist()) == (tokenizer.mask_id, [i % 2])
    plain = build_store(examples, tokenizer, folder=tmp_path / "p", **options)
    assert plain.items(0)[0].tolist() == [0]
    assert plain.content_hash != store.content_hash
    with pytest.raises(DataError, match="x.tsv:7: a pair of texts, but the template has|x.tsv:7: a pair of texts"):
        build_store([example("a", "a", "b", 7)], tokenizer, folder=tmp_path / "w", prompt=TEMPLATES[0], **options)
