"""Named warnings for the ways in which a run goes wrong without failing.

Every function looks at one failure signature and returns a `RunWarning`, or None when all is well. The limits are the
constants below; they are judgements, not theorems, and every warning carries the numbers that set it off.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from ... import DataError
from ..evaluation.metrics import as_array
from ..storage.run_warning import RunWarning
from .thresholds import ThresholdChoice

if TYPE_CHECKING:
    import torch


MIN_LOSS_DROP = 0.05
"""Smallest fall of the BTF loss, relative to its start."""
MIN_AGREEMENT = 0.5
"""Smallest share of items on which all voters agree."""
MIN_REST_RATIO = 0.1
"""All classes but the largest hold together at least this much of their share in the source labels."""
MIN_CLASS_RATIO = 0.1
"""One class holds at least this much of its share in the source labels."""
MIN_CLASS_PRIOR = 0.01
"""Classes that are rarer than this in the source are not judged one by one."""
MIN_ACCEPTANCE_RATIO = 0.8
"""Acceptance of a round, relative to the best round before."""
MIN_ENTITY_COVERAGE = 0.05
"""Smallest accepted share of the items that the student tags as entities."""
MAX_SOURCE_DROP = 0.3
"""Largest share of the kept source examples that one round should drop."""
FREQUENCY_LOSS = 0.97
"""A masked-LM loss this near to the entropy of single tokens, or above, says that nothing but frequencies is known."""
MIN_MOVEMENT = 0.25
"""Smallest distance that Adam can move a fresh weight, in standard deviations of its initialisation."""
ADVISED = tuple(step / 20 for step in range(19, -1, -1))
"""Thresholds that are tried for an advice where none was accepted, the strictest first ..."""
ADVISED_SHARE = 0.1
"""... until one accepts this share of the items."""
SCHEDULE_MEAN = 0.5
"""Mean of a linear warm-up and linear decay, relative to the peak."""


def ends(losses: Sequence[float]) -> tuple[float, float]:
    """Mean loss of the first and of the last tenth of the steps."""
    tenth = max(1, len(losses) // 10)
    return float(np.mean(losses[:tenth])), float(np.mean(losses[-tenth:]))


def low_loss_drop(losses: Sequence[float]) -> RunWarning | None:
    """`low-btf-loss-drop`: masked-word prediction on the task text hardly improved, from the loss of each step."""
    if len(losses) < 2:
        return None
    first, last = ends(losses)
    drop = (first - last) / first if first > 0 else 0.0
    if drop >= MIN_LOSS_DROP:
        return None
    if drop < 0:
        said = f"raised the loss by {-drop:.1%} ({first:.3f} to {last:.3f}): lower the learning rate, or train longer"
    else:
        said = (
            f"lowered the loss by {drop:.1%} only ({first:.3f} to {last:.3f}): train longer, raise the learning rate, "
            "freeze less, or check that the text is of the task's domain"
        )
    values = {"first": first, "last": last, "drop": drop}
    return RunWarning("low-btf-loss-drop", f"bilingual task fitting {said}", values)


def only_frequencies(losses: Sequence[float], entropy: float) -> RunWarning | None:
    """`only-frequencies`: pre-training has not learned to look at the context.

    Args:
        losses: of each step.
        entropy: of a single token, mean over the languages, nats.
    """
    last = ends(losses)[1] if losses else 0.0
    if last < FREQUENCY_LOSS * entropy or not entropy:
        return None
    return RunWarning(
        "only-frequencies",
        f"the loss of pre-training ended at {last:.2f}, and guessing by each word piece's frequency costs "
        f"{entropy:.2f}: the encoder does not look at the context; lower pretrain.lr, raise training.warmup, or train "
        "longer",
        {"last": last, "entropy": entropy},
    )


def low_agreement(agree: ArrayLike | torch.Tensor) -> RunWarning | None:
    """`low-voter-agreement`: the voters contradict each other on most items; `agree` is a bool per item `[K]`."""
    votes = as_array(agree)
    share = float(votes.mean()) if votes.size else 1.0
    if share >= MIN_AGREEMENT:
        return None
    return RunWarning(
        "low-voter-agreement",
        f"the voters agree on {share:.1%} of {votes.size} items only: the student is underfitted, so train the soft "
        "stage longer or with a higher learning rate",
        {"agreement": share, "items": votes.size},
    )


def single_voter(num_voters: int) -> RunWarning | None:
    """`single-voter`: with one voter nothing filters by agreement."""
    if num_voters > 1:
        return None
    return RunWarning(
        "single-voter",
        "one voter cannot disagree: on classification the paper's self-training without voters ends below no "
        "self-training (Table 5: 81.92 against 84.05); use three",
        {"voters": num_voters},
    )


def class_collapse(accepted: Mapping[str, int], source: Mapping[str, int]) -> RunWarning | None:
    """`class-share-collapse`: one class swallows the accepted pseudo-labels, measured by its share in the source.

    Args:
        accepted: accepted items per class.
        source: labelled source items per class, the yardstick.
    """
    total, prior_total = sum(accepted.values()), sum(source.values())
    if not total or not prior_total or len(source) < 2:
        return None
    largest = max(accepted, key=lambda label: accepted[label])
    share, prior = accepted[largest] / total, source.get(largest, 0) / prior_total
    if 1 - share >= MIN_REST_RATIO * (1 - prior):
        return None
    return RunWarning(
        "class-share-collapse",
        f"{share:.1%} of the accepted pseudo-labels are {largest!r} ({prior:.1%} of the source labels): the student "
        "collapses into one class; lower alpha, or stop after fewer rounds",
        {"label": largest, "share": share, "source_share": prior},
    )


def class_shift(accepted: Mapping[str, int], source: Mapping[str, int]) -> RunWarning | None:
    """`class-share-shift`: some classes are nearly absent from the accepted pseudo-labels; arguments as above."""
    total, prior_total = sum(accepted.values()), sum(source.values())
    if not total or not prior_total:
        return None
    shares = {label: (accepted.get(label, 0) / total, count / prior_total) for label, count in source.items()}
    missing = sorted(
        label
        for label, (share, prior) in shares.items()
        if prior >= MIN_CLASS_PRIOR and share < MIN_CLASS_RATIO * prior
    )
    if not missing:
        return None
    return RunWarning(
        "class-share-shift",
        f"nearly absent from the accepted pseudo-labels: {', '.join(missing)}; the hard stage sees them in the source "
        "only",
        {label: {"share": shares[label][0], "source_share": shares[label][1]} for label in missing},
    )


def falling_acceptance(coverages: Sequence[float]) -> RunWarning | None:
    """`falling-acceptance`: the last round accepted clearly less than the best before it; one coverage per round."""
    best = max(coverages[:-1], default=0.0)
    if not coverages or coverages[-1] >= MIN_ACCEPTANCE_RATIO * best:
        return None
    return RunWarning(
        "falling-acceptance",
        f"the share of accepted pseudo-labels fell from {best:.1%} to {coverages[-1]:.1%}: further rounds narrow the "
        "data; stop earlier",
        {"coverages": [float(c) for c in coverages]},
    )


def alpha_at_edge(choice: ThresholdChoice) -> RunWarning | None:
    """`alpha-at-grid-edge`: the grid of thresholds chose alpha rather than the data did."""
    if not choice.at_edge:
        return None
    why = choice.reason if choice.fallback else "it is the first or the last threshold that the rule could choose"
    return RunWarning(
        "alpha-at-grid-edge",
        f"alpha {choice.alpha:g} says little about the data: {why}; look at the curve, or compare with "
        "precision:<p> and fixed:0.9",
        {"alpha": choice.alpha, "rule": choice.rule, "fallback": choice.fallback},
    )


def few_accepted_entities(accepted: int, predicted: int) -> RunWarning | None:
    """`few-accepted-entities`: hardly any item that the student tags as an entity was accepted."""
    coverage = accepted / predicted if predicted else 0.0
    if coverage >= MIN_ENTITY_COVERAGE:
        return None
    return RunWarning(
        "few-accepted-entities",
        f"{accepted} of {predicted} items tagged as entities were accepted ({coverage:.1%}): the hard stage will "
        "likely bring no gain; train the soft stage longer or with a higher learning rate",
        {"accepted": accepted, "predicted": predicted, "coverage": coverage},
    )


def cut_by_length(
    cut: int, total: int, max_length: int, language: str, *, role: str = "text", unit: str = "tokens"
) -> RunWarning | None:
    """`cut-by-maximum-length`: words or tokens beyond the maximum length, which are not seen.

    Args:
        role: "source", "target", "test" (of classification) or "text" (for masked language modelling).
    """
    if not cut:
        return None
    return RunWarning(
        "cut-by-maximum-length",
        f"{role} ({language}): {cut} of {total} {unit} ({cut / max(1, total):.2%}) lie beyond the maximum length "
        f"of {max_length} tokens and are not seen: raise max_length or split the texts",
        {"cut": cut, "total": total, "max_length": max_length, "unit": unit, "role": role, "language": language},
    )


def no_token(words: int, total: int, *, role: str, language: str) -> RunWarning | None:
    """`words-without-token`: words of characters that the tokenizer drops; arguments as above."""
    if not words:
        return None
    return RunWarning(
        "words-without-token",
        f"{role} ({language}): {words} of {total} words give no token and are not seen: white space or control "
        "characters, which the tokenizer drops; remove them from the file",
        {"words": words, "total": total, "role": role, "language": language},
    )


def heavy_source_drop(before: int, after: int) -> RunWarning | None:
    """`heavy-source-drop`: one round dropped much of the kept source examples, for good."""
    share = (before - after) / before if before else 0.0
    if share <= MAX_SOURCE_DROP:
        return None
    return RunWarning(
        "heavy-source-drop",
        f"{before - after} of {before} source examples ({share:.1%}) were dropped for good: the soft student has more "
        "likely forgotten the source language than found so many wrong labels",
        {"before": before, "after": after, "share": share},
    )


def slow_learning_rate(peak: float, steps: int, *, init_std: float = 0.02) -> RunWarning | None:
    """`learning-rate-too-small`: a fresh head cannot leave its initialisation.

    A step of Adam moves a weight by about its learning rate at most, so that a schedule of linear warm-up and decay
    moves it by `peak * steps / 2`.
    """
    movement = peak * steps * SCHEDULE_MEAN
    if movement >= MIN_MOVEMENT * init_std:
        return None
    return RunWarning(
        "learning-rate-too-small",
        f"{steps} steps with a peak learning rate of {peak:g} move a weight by {movement:.2g} at most, against an "
        f"initial standard deviation of {init_std:g}: raise the rate or train longer",
        {"peak": peak, "steps": steps, "movement": movement, "init_std": init_std},
    )


def no_induced_pairs(pairs: int, margin: float) -> RunWarning | None:
    """`no-induced-pairs`: the model finds no words that stand for each other, so that nothing is mixed."""
    if pairs:
        return None
    return RunWarning(
        "no-induced-pairs",
        f"no two words of source and target text are each other's nearest with a score above {margin:g}: the texts are "
        "learned as they are; fit longer, or on more text",
        {"margin": margin},
    )


def confidence_histogram(confidence: ArrayLike | torch.Tensor) -> str:
    """Text histogram of confidences `[K]`, one line for each of ten equal parts of [0, 1]."""
    values = as_array(confidence)
    counts, edges = np.histogram(values[np.isfinite(values)], range=(0.0, 1.0))
    longest = max(1, int(counts.max()))
    return "\n".join(
        f"  {low:.2f}-{high:.2f} {count:>9} {'#' * math.ceil(40 * count / longest)}".rstrip()
        for low, high, count in zip(edges[:-1], edges[1:], counts.tolist(), strict=True)
    )


def require_accepted(
    num_accepted: int,
    confidence: ArrayLike | torch.Tensor,
    agree: ArrayLike | torch.Tensor,
    *,
    alpha: float | None,
    where: str,
    accepted_at: Callable[[float], int],
) -> None:
    """Refuse a round without a single pseudo-label.

    Args:
        confidence: lowest confidence among the voters per item `[K]`.
        agree: bool per item `[K]`.
        where: file, or stage and language, that the message starts with.
        accepted_at: how many items another alpha would accept.

    Raises:
        DataError: nothing was accepted; the message says what would be, and holds a histogram of the confidences.
    """
    if num_accepted:
        return
    votes = as_array(agree)
    share = float(votes.mean()) if votes.size else 0.0
    agreed = as_array(confidence)[votes.astype(bool)]
    raise DataError(
        f"{where}: none of {votes.size} items was accepted as a pseudo-label (alpha {alpha}, voters agree on "
        f"{share:.1%}): {_lower_threshold(agreed[np.isfinite(agreed)], votes.size, accepted_at)}. "
        f"Lowest confidence among the voters:\n{confidence_histogram(confidence)}"
    )


def _lower_threshold(agreed: np.ndarray, items: int, accepted_at: Callable[[float], int]) -> str:
    """What to do where nothing was accepted, from the confidences that the voters agree on."""
    longer = "train the soft stage longer or with a higher learning rate"
    highest = f"no item is above {math.ceil(100 * agreed.max()) / 100:.2f}" if agreed.size else "no item is agreed on"
    counts = {threshold: accepted_at(threshold) for threshold in ADVISED}
    enough = (t for t, count in counts.items() if count >= ADVISED_SHARE * items)
    lower = next(enough, max(counts, key=lambda threshold: counts[threshold]))
    if not counts[lower]:
        return f"{highest}, and no threshold would accept any: {longer}"
    rule = f'selftrain.alpha.rule = "fixed:{lower:g}"'
    return f"{highest}; {rule} would accept {counts[lower]} of {items}. Or {longer}"
