"""Models of random weights in folders, for all files of this room."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from xlt_engine.data import train_wordpiece
from xlt_engine.model import Encoder, EncoderConfig, TaskModel, VoterHeads, save_model

LINES = ["Anna lives in Paris", "Carl saw London today", "the city of Oslo is old", "a good book about Berlin"]
LABELS = {"ner": ("O", "B-PER", "I-PER"), "classification": ("good", "bad", "fair")}


def write_model(folder: Path, task: str, text: Sequence[str] = (), seed: int = 3, heads: int = 86) -> Path:
    """A model of three voters that agree on some items, with its tokenizer."""
    tokenizer = train_wordpiece([*LINES * 3, *text], 60 + 10 * len(text), min_frequency=1)
    config = EncoderConfig(tokenizer.vocab_size, 16, 1, 2, 32, max_positions=24, initializer_range=0.5)
    head = VoterHeads(16, 3, (12, 13, 14), seed=heads, initializer_range=0.5)
    save_model(TaskModel(Encoder(config, seed=seed), head, task, LABELS[task]), folder)
    tokenizer.save(folder)
    return folder


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two taggers and a classifier."""
    kinds = (("ner", "ner", 3), ("other", "ner", 8), ("classification", "classification", 3))
    text = ["北 京 是 中 国"]
    return {name: write_model(tmp_path_factory.mktemp(name), task, text, seed, 104) for name, task, seed in kinds}


@pytest.fixture(scope="session")
def tagger_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("tagger"), "ner")


@pytest.fixture(scope="session")
def classifier_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("classifier"), "classification", heads=10)
