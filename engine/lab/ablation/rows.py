"""The rows of an ablation: what each changes in a recipe, whose score it reports, and which tables it stands in.

A row is a name and a few overrides, in the grammar of `--set`; a group is a table. To add a row, add it to `ROWS` and
its name to a group.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .... import ConfigError
from ...recipe.config import RunConfig
from ...recipe.schema import nearest

DEFAULT = ("main",)
OURS = "ours"
ALL = "all"
_TASKS = ("ner", "classification")


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        name: also that of its folder.
        label: as tables call it.
        meaning: in a line.
        overrides: `key=value`, after those that hold for all rows.
        stage: folder name of the stage that is scored; the last one of the method when empty.
        tasks: of recipes that the row makes sense for.
        general: whether it needs general text in every language.
        seeds: how many seeds it needs.
    """

    name: str
    label: str
    meaning: str
    overrides: tuple[str, ...] = ()
    stage: str = ""
    tasks: tuple[str, ...] = _TASKS
    general: bool = False
    seeds: int = 1

    def obstacle(self, config: RunConfig) -> str:
        """Why a recipe cannot have this row; empty where it can."""
        if config.task not in self.tasks:
            return f"is for {' and '.join(self.tasks)} only"
        if len(config.seeds) < self.seeds:
            return f"needs {self.seeds} seeds at least: give --seeds"
        if self.seeds > 1 and "soft" not in config.selftrain.sequence:
            return "needs a soft stage"
        lacking = [t.language for t in config.tables if not (t.control or t.general)]
        if self.general and config.world is None and lacking:
            return f"needs general text of {', '.join(lacking)}: give source.control and targets.N.control"
        return ""


@dataclass(frozen=True)
class Group:
    """A table: its rows in order, and the one that the others are compared with."""

    name: str
    title: str
    rows: tuple[str, ...]
    reference: str = OURS


def _row(
    name: str,
    label: str,
    meaning: str,
    *overrides: str,
    stage: str = "",
    tasks: tuple[str, ...] = _TASKS,
    general: bool = False,
    seeds: int = 1,
) -> Row:
    """A row without the arms that a recipe may have for comparison: they are rows of their own here."""
    arms = tuple(f"arms.{arm}=false" for arm in ("baseline", "control") if f"arms.{arm}=true" not in overrides)
    return Row(name, label, meaning, (*arms, *overrides), stage, tasks, general, seeds)


def _rounds(number: float, *overrides: str) -> tuple[str, ...]:
    return ("selftrain.stages=[]", f"selftrain.rounds={number}", *overrides)


_HARD1 = _rounds(1)

ROWS: dict[str, Row] = {
    row.name: row
    for row in (
        Row(OURS, "ours", "the recipe as it is"),
        _row("no-at", "-AT", "no automatic threshold: fixed at 0.9", "selftrain.alpha.rule=fixed:0.9"),
        _row(
            "no-vm",
            "-VM",
            "no voting: students with one linear head",
            "selftrain.voters=1",
            "selftrain.widths=[]",
        ),
        _row("no-btf", "-BTF", "no bilingual task fitting: all starts from the given encoder", "btf.on=false"),
        _row("no-st", "-ST", "no self-training: BTF, then fine-tuning on the source", "selftrain.on=false"),
        _row("mbert", "MBERT", "neither: fine-tuning on the source alone", "btf.on=false", "selftrain.on=false"),
        _row(
            "mbert-wiki",
            "MBERT-wiki",
            "BTF on as much general text instead of task text, then fine-tuning",
            "arms.control=true",
            "selftrain.on=false",
            stage="control",
            general=True,
        ),
        _row("soft-1", "soft", "one soft stage, no hard one", 'selftrain.stages=["soft"]'),
        _row("soft-2", "soft, soft", "two soft stages, no hard one", 'selftrain.stages=["soft", "soft"]'),
        _row("soft-3", "soft, soft, soft", "three soft stages", 'selftrain.stages=["soft", "soft", "soft"]'),
        _row("origin", "before the filter", "the student that the threshold is for: after soft 1", *_rounds(0.5)),
        _row(
            "fixed-0",
            "0",
            "hard 1 with threshold 0: the voters must agree, however unsure",
            *_HARD1,
            "selftrain.alpha.rule=fixed:0.0",
        ),
        _row("fixed-0.9", "0.9", "hard 1 with threshold 0.9", *_HARD1, "selftrain.alpha.rule=fixed:0.9"),
        _row("fixed-0.99", "0.99", "hard 1 with threshold 0.99", *_HARD1, "selftrain.alpha.rule=fixed:0.99"),
        _row("fixed-0.999", "0.999", "hard 1 with threshold 0.999", *_HARD1, "selftrain.alpha.rule=fixed:0.999"),
        _row(
            "no-filter", "no filter", "hard 1 with every label of the student", *_HARD1, "selftrain.target_filter=none"
        ),
        _row("auto", "the recipe's rule", "hard 1 with the threshold that the recipe's rule finds", *_HARD1),
        _row("trail-soft1", "soft 1", "after the first soft stage", *_rounds(0.5)),
        _row("trail-hard1", "hard 1", "after the first round", *_rounds(1)),
        _row("trail-soft2", "soft 2", "after one round and a half", *_rounds(1.5)),
        _row("trail-hard2", "hard 2", "after two rounds", *_rounds(2)),
        _row("trail-soft3", "soft 3", "after two rounds and a half", *_rounds(2.5)),
        *(
            _row(
                f"voters-{m}",
                f"M = {m}",
                f"students with {m} voter{'s' * (m > 1)}",
                f"selftrain.voters={m}",
                "selftrain.widths=[]",
            )
            for m in range(1, 6)
        ),
        _row(
            "source-correct",
            "contradicted ones leave",
            "source examples that the student contradicts leave for good",
            "selftrain.source_filter=correct",
        ),
        _row("source-none", "all stay", "no source example is removed", "selftrain.source_filter=none"),
        _row(
            "source-alpha",
            "unsure ones leave too",
            "source examples below the threshold leave too",
            "selftrain.source_filter=correct+alpha",
        ),
        _row("target-token", "by token", "each word, or text, is accepted by itself", "selftrain.target_filter=token"),
        _row(
            "target-entity",
            "by entity",
            "predicted entities are accepted as a whole",
            "selftrain.target_filter=entity",
            tasks=("ner",),
        ),
        _row(
            "target-sentence",
            "by sentence",
            "sentences are accepted as a whole",
            "selftrain.target_filter=sentence",
            tasks=("ner",),
        ),
        _row("target-none", "none", "every label of the student is accepted", "selftrain.target_filter=none"),
        _row(
            "class-balanced",
            "classes alike",
            "at most the same share of each predicted class",
            "selftrain.accept=class-balanced",
        ),
        _row(
            "source-classes",
            "classes as in the source",
            "accepted classes as the source has them",
            "selftrain.accept=source-distribution",
        ),
        _row(
            "joint",
            "with masked words",
            "self-training learns masked words of both languages in every step, weight 0.5",
            "selftrain.mlm_weight=0.5",
        ),
        _row(
            "mixed",
            "mixed words",
            "fine-tuning also learns the source with words of the target, by the model's own dictionary",
            "augment.code_switch.dictionaries=[]",
            "augment.code_switch.induce=true",
        ),
        _row(
            "teachers",
            "teachers of all seeds",
            "soft labels are the mean over the teachers of all seeds, so that seeds are not independent",
            "selftrain.soft.teachers=seeds",
            seeds=2,
        ),
    )
}

GROUPS: dict[str, Group] = {
    group.name: group
    for group in (
        Group(
            "main",
            "The method without its parts (Tables 5 and 6)",
            (OURS, "no-at", "no-vm", "no-btf", "no-st", "mbert", "mbert-wiki"),
        ),
        Group("soft-only", "Soft stages only (Table 7)", ("no-st", "soft-1", "soft-2", "soft-3"), "no-st"),
        Group(
            "thresholds",
            "Fixed thresholds against the automatic one, after hard 1 (Table 8)",
            ("origin", "no-filter", "fixed-0", "fixed-0.9", "fixed-0.99", "fixed-0.999", "auto"),
            "auto",
        ),
        Group(
            "trail",
            "Stage by stage over the rounds (Table 9)",
            ("no-st", "trail-soft1", "trail-hard1", "trail-soft2", "trail-hard2", "trail-soft3"),
            "no-st",
        ),
        Group("voters", "Number of voters", tuple(f"voters-{m}" for m in range(1, 6))),
        Group("source", "Which source examples stay", ("source-correct", "source-none", "source-alpha")),
        Group(
            "target",
            "What the target filter judges",
            ("target-token", "target-entity", "target-sentence", "target-none"),
        ),
        Group(
            "better",
            "Beyond the paper",
            (OURS, "class-balanced", "source-classes", "joint", "mixed", "teachers"),
        ),
    )
}


@dataclass(frozen=True)
class Choice:
    """What an ablation consists of.

    Attributes:
        rows: in the order in which they are made: the references first, since they hold what most rows share.
        groups: with the rows that the recipe can have.
        left_out: row -> why, of rows that a group would have.
    """

    rows: tuple[Row, ...]
    groups: tuple[Group, ...]
    left_out: dict[str, str]


def choose(names: Sequence[str], config: RunConfig) -> Choice:
    """The rows and tables that some names of rows and groups stand for; those of `DEFAULT` where there are none.

    Raises:
        ConfigError: a name is unknown, or the recipe cannot have the row; all of them at once.
    """
    single, groups, problems = [], [], []
    for name in [part for given in names or DEFAULT for part in (GROUPS if given == ALL else [given])]:
        if name in GROUPS:
            groups.append(GROUPS[name])
        elif (row := _find(name)) is None:
            problems.append(_unknown(name))
        elif obstacle := row.obstacle(config):
            problems.append(f"--rows {name}: {obstacle}")
        else:
            single.append(row.name)
    if problems:
        raise ConfigError("\n".join(problems))
    left_out = {n: why for g in groups for n in g.rows if (why := ROWS[n].obstacle(config))}
    kept = [Group(g.name, g.title, tuple(n for n in g.rows if n not in left_out), g.reference) for g in groups]
    alone = [n for n in dict.fromkeys([OURS, *single]) if not any(n in g.rows for g in groups) or n == OURS]
    if len(alone) > 1:
        kept.append(Group("chosen", "Chosen rows", tuple(alone)))
    kept = list({g.name: g for g in kept}.values()) or [Group("chosen", "Chosen rows", (OURS,))]
    order = dict.fromkeys([g.reference for g in kept] + [n for g in kept for n in g.rows])
    order = dict.fromkeys([n for n in (OURS,) if n in order]) | order
    return Choice(tuple(ROWS[n] for n in order), tuple(kept), left_out)


def _find(name: str) -> Row | None:
    """By name, or by label in the paper's spelling (-VM)."""
    return ROWS.get(name.lower()) or next((r for r in ROWS.values() if r.label.lower() == name.lower()), None)


def _unknown(name: str) -> str:
    near = nearest(name, [*ROWS, *GROUPS, ALL, *(row.label for row in ROWS.values())])
    hint = f"did you mean {near}? " if near else ""
    return f"--rows {name}: there is no such row or group; {hint}--list names all of them"


def describe_rows() -> str:
    """Groups and rows with their meaning, for a person."""
    lines: list[str] = []
    for group in GROUPS.values():
        lines += [f"{group.name}: {group.title}; compared with {group.reference}", *_lines(ROWS[n] for n in group.rows)]
        lines.append("")
    return "\n".join([*lines, "Names of rows and groups go to --rows, with commas between them; all stands for all."])


def _lines(rows: Iterable[Row]) -> list[str]:
    return [f"  {row.name:<16}{row.label:<24}{row.meaning}" for row in rows]
