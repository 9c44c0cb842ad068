"""Recipes: every rule of the checker, lines of keys, overrides, origins, and the way back to TOML."""

import dataclasses
import json
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_type_hints

import pytest

from xlt_engine import ConfigError
from xlt_engine.engine import predict, run
from xlt_engine.engine.lab.studies.finished_run import FinishedRun
from xlt_engine.engine.recipe.config import RunConfig
from xlt_engine.engine.recipe.config.removed import AFTER_0_2_0, REMOVED
from xlt_engine.engine.recipe.load import RecipeError, load_recipe
from xlt_engine.engine.recipe.schema import table_class
from xlt_engine.engine.recipe.toml_dump import dump_toml
from xlt_engine.engine.recipe.toml_parse import key_lines
from xlt_engine.engine.report.write import write_report
from xlt_engine.engine.summary.answer import chosen_model


@dataclass(frozen=True, kw_only=True)
class Inner:
    """A table."""

    lr: float = field(default=1.0, metadata={"above": 0, "max": 1})
    rule: Literal["slope", "kappa"] = "slope"
    mixed: int | Literal["auto"] = "auto"
    name: str | None = None


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One of an array of tables."""

    language: str = field(metadata={"help": "language code"})
    files: tuple[Path, ...] = ()
    deep: Inner = field(default_factory=Inner)


@dataclass(frozen=True, kw_only=True)
class Conf:
    """A small recipe with every annotation."""

    count: int = field(default=3, metadata={"min": 1, "below": 10})
    on: bool = True
    ratio: float = 0.5
    word: str = "w"
    file: Path | None = None
    numbers: tuple[int, ...] = (1, 2)
    shares: tuple[float, ...] = field(default=(), metadata={"max": 1})
    mapping: dict[str, str] = field(default_factory=dict)
    inner: Inner = field(default_factory=Inner)
    maybe: Inner | None = None
    entries: tuple[Entry, ...] = ()

    def problems(self) -> list[tuple[str, str]]:
        return (
            [("entries.0.language", "xx is not allowed")] if self.entries and self.entries[0].language == "xx" else []
        )


def load(folder: Path, text: str, *overrides: str, cls: type[Any] = Conf) -> Any:
    path = folder / "recipe.toml"
    path.write_text(text, "utf-8")
    return load_recipe(path, overrides, cls=cls)


def failures(folder: Path, text: str, *overrides: str, cls: type[Any] = Conf) -> list[tuple[str, str, str]]:
    """Place without the folder, key and message of each problem."""
    with pytest.raises(RecipeError) as caught:
        load(folder, text, *overrides, cls=cls)
    found = [(p.where.removeprefix(f"{folder}/"), p.key, p.message) for p in caught.value.problems]
    assert all(f"{p.where}: " in str(caught.value) for p in caught.value.problems)
    return found


def test_an_empty_recipe_is_the_defaults(tmp_path: Path) -> None:
    resolved = load(tmp_path, "")
    assert resolved.config == Conf()
    assert set(resolved.origins.values()) == {"default"}


def test_every_annotation_is_read(tmp_path: Path) -> None:
    text = """
count = 4
on = false
ratio = 1
word = "a b"
file = "x/../data.txt"
numbers = [5]
shares = [0, 0.25]
mapping = {a = "b", "c d" = ""}
inner.rule = "kappa"
[maybe]
mixed = 7
[[entries]]
language = "de"
files = ["/abs/a", "b"]
[entries.deep]
name = "n"
[[entries]]
language = "es"
"""
    config = load(tmp_path, text).config
    assert config == Conf(
        count=4,
        on=False,
        ratio=1.0,
        word="a b",
        file=tmp_path / "data.txt",
        numbers=(5,),
        shares=(0.0, 0.25),
        mapping={"a": "b", "c d": ""},
        inner=Inner(rule="kappa"),
        maybe=Inner(mixed=7),
        entries=(
            Entry(language="de", files=(Path("/abs/a"), tmp_path / "b"), deep=Inner(name="n")),
            Entry(language="es"),
        ),
    )
    assert isinstance(config.ratio, float)


def test_whole_numbers_are_floats_where_floats_are_meant(tmp_path: Path) -> None:
    """Or else 3 and 3.0 were two fingerprints: what a recipe gives, and every default."""
    assert type(load(tmp_path, "inner = {lr = 1}").config.inner.lr) is float

    def defaults(cls: type[Any]) -> Iterator[tuple[str, Any, Any]]:
        hints = get_type_hints(cls)
        for entry in dataclasses.fields(cls):
            yield f"{cls.__name__}.{entry.name}", hints[entry.name], entry.default
            if inner := table_class(hints[entry.name]):
                yield from defaults(inner)

    every = list(defaults(RunConfig))
    assert len(every) > 150
    assert not [name for name, kind, value in every if kind is float and type(value) is not float]


@pytest.mark.parametrize(
    ("line", "key", "message"),
    [
        ("count = 1.0", "count", r"1\.0 given, expected a whole number"),
        ("count = true", "count", "true given, expected a whole number"),
        ("count = 0", "count", "0 given, expected at least 1 and less than 10"),
        ("count = 10", "count", "10 given, expected .* less than 10"),
        ("ratio = '0.1'", "ratio", '"0.1" given, expected a number'),
        ("ratio = nan", "ratio", "expected a finite number"),
        ("ratio = true", "ratio", "true given, expected a number"),
        ("on = 1", "on", "1 given, expected true or false"),
        ("word = 5", "word", 'expected a string: write "5" with quotes'),
        ("word = 2020-01-01", "word", "expected a string"),
        ("file = 5", "file", "5 given, expected a path"),
        ("file = ''", "file", "empty path"),
        ("file = ['a']", "file", "an array given, expected a path"),
        ("numbers = 5", "numbers", r"expected an array .*: write \[5\]"),
        ("numbers = [1, 'x']", "numbers.1", "expected a whole number"),
        ("shares = [0.5, 2]", "shares.1", "2.0 given, expected at most 1"),
        ("mapping = {a = 1}", "mapping.a", "expected a string"),
        ("mapping = 'x'", "mapping", "expected a table"),
        ("inner = 5", "inner", "expected a table"),
        ("inner = {lr = 0}", "inner.lr", "expected greater than 0 and at most 1|expected at most 1 and greater than 0"),
        ("inner = {rule = 'kapa'}", "inner.rule", 'expected "slope" or "kappa"; did you mean "kappa"\\?'),
        ("inner = {rule = 'zzz'}", "inner.rule", 'expected "slope" or "kappa"$'),
        ("inner = {rule = 3}", "inner.rule", 'expected "slope" or "kappa"$'),
        ("inner = {mixed = 'aut'}", "inner.mixed", 'did you mean "auto"'),
        ("inner = {mixed = 0.5}", "inner.mixed", 'expected a whole number or "auto"'),
        ("entries = {language = 'de'}", "entries", "expected an array"),
        ("entries = [{}]", "entries.0.language", "missing: language code"),
        ("entries = [{language = 'xx'}]", "entries.0.language", "xx is not allowed"),
        ("cuont = 3", "cuont", r"unknown key in the recipe; did you mean count\?"),
        ("inner = {Rule = 'kappa'}", "inner.Rule", r"unknown key in \[inner\]; did you mean rule\?"),
        ("lr = 3", "lr", r"did you mean inner\.lr or maybe\.lr or entries\.0\.deep\.lr\?"),
        ("qqq = 3", "qqq", "the keys are count, on, ratio"),
    ],
)
@pytest.mark.fault(51)
def test_each_fault_is_named(tmp_path: Path, line: str, key: str, message: str) -> None:
    [(where, found, said)] = failures(tmp_path, f"\n# comment\n{line}\n")
    assert (where, found) == ("recipe.toml:3", key)
    assert re.search(message, said)


@pytest.mark.fault(51)
def test_all_faults_come_at_once_with_their_lines(tmp_path: Path) -> None:
    text = """count = 0
numbers = [
  1,
  "two",
]
[inner]
lr = 5
ruel = "slope"
[[entries]]
language = "de"
[[entries]]
langage = "es"
[[entries]]
files = ["${XLT_NO_SUCH_VARIABLE}/a"]
[entries.deep]
rule = "x"
"""
    found = failures(tmp_path, text, "inner.mixed=x", "maybe.lr=-1", "=3", "numbers.7=2", "word.x=1")
    assert [(where, key) for where, key, _ in found] == [
        ("--set =3", ""),
        ("--set numbers.7=2", ""),
        ("--set word.x=1", "word"),
        ("--set inner.mixed=x", "inner.mixed"),
        ("--set maybe.lr=-1", "maybe.lr"),
        ("recipe.toml:1", "count"),
        ("recipe.toml:4", "numbers.1"),
        ("recipe.toml:7", "inner.lr"),
        ("recipe.toml:8", "inner.ruel"),
        ("recipe.toml:12", "entries.1.langage"),
        ("recipe.toml:13", "entries.2.language"),
        ("recipe.toml:14", "entries.2.files.0"),
        ("recipe.toml:16", "entries.2.deep.rule"),
    ]


@pytest.mark.parametrize("language", ["../x", "de/x", "c:", "..", "", "a\\b", "a\nb"])
def test_a_language_names_a_folder_in_the_run(tmp_path: Path, language: str) -> None:
    text = f'task = "ner"\nworld = {{}}\nmodel.new = {{}}\n[[targets]]\nlanguage = {json.dumps(language)}\n'
    [(where, key, said)] = failures(tmp_path, text, cls=RunConfig)
    assert (where, key) == ("recipe.toml:5", "targets.0.language")
    assert "cannot name a folder" in said


MADE = 'task = "ner"\nworld = {}\nmodel.new = {}\n'
JOINED = """task = "ner"
seeds = []
[finetune]
lr = "x"
[selftrain]
voters = 2
widths = [1, 2, 3]
stages = ["soft", "hrad"]
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # Cross-checks join other faults, and absent tables are asked too.
        (
            JOINED,
            "1 model.path, 1 source.train, 1 targets, 2 seeds, 4 finetune.lr, 7 selftrain.widths, 8 selftrain.stages.1",
        ),
        # What follows from a fault is not reported too.
        (
            f'{MADE}seeds = ["one"]\nselftrain.voters = 2\nselftrain.widths = [1, 0.5]\n',
            "4 seeds.0, 6 selftrain.widths.1",
        ),
        (f'{MADE}labels = ["O", "B-A", "B-A", " "]\n', "4 labels.2, 4 labels.3"),
    ],
)
def test_faults_of_a_whole_recipe(tmp_path: Path, text: str, expected: str) -> None:
    found = failures(tmp_path, text, cls=RunConfig)
    assert sorted((where, key) for where, key, _ in found) == [
        (f"recipe.toml:{line}", key) for line, key in (place.split(" ") for place in expected.split(", "))
    ]
    if "labels" in text:
        assert [said.split(";")[0] for *_, said in found] == ["'B-A' is named twice", "is empty"]


def test_a_faulty_recipe_still_gives_a_partial_configuration(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        load(tmp_path, 'count = "x"\nword = "kept"\nentries = [{language = "de"}, {language = 3}]')
    assert caught.value.partial == Conf(word="kept", entries=(Entry(language="de"),))


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("count = 3\nx = = 4\n", ":2: not valid TOML"),
        ("count = 3\ncount = 4\n", ":2: not valid TOML: Cannot overwrite"),
        ("a = [1,\n2\n", ":3: not valid TOML"),
        ("x = " + "[" * 5000, ":1: nested too deeply"),
    ],
)
def test_text_that_is_not_toml(tmp_path: Path, text: str, place: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"recipe.toml{place}")):
        load(tmp_path, text)


def test_bytes_that_are_not_utf8_and_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_bytes(b"count = 3\nword = '\xff'\n")
    with pytest.raises(ConfigError, match=r"recipe.toml:2: byte 0xff is not UTF-8"):
        load_recipe(path, cls=Conf)
    path.write_bytes(b"\xef\xbb\xbfcount = 4\r\nword = 5\r\n")
    with pytest.raises(ConfigError, match=r"recipe.toml:2: word"):
        load_recipe(path, cls=Conf)


LINES = '''# head
a = 1
"quoted.key" = 'lit # no comment' # comment
b.c.d = """
many
[not.a.table]
x = 1 \\""" still
"""
"\\u00e9" = 2
e = [ # comment ]
  [1, 2], "]",

  3 ]
f = {g = 1, h = {i = "}"}}
[t]
k = 1.5
  [t.u]
  k = 2020-01-01T00:00:00
[[arr]]
x = 1
y = \'\'\'it''s
two\'\'\'\'
[[arr]]
x = 2
  [[arr.sub]]
  z = 1
  [[arr.sub]]
  z = 2
  [arr.sub.deep]
  w = [{p = 1},
       {p = 2}]
[ v . "w x" ]
z = 9'''


def test_lines_of_keys() -> None:
    expected = {
        ("a",): 2,
        ("quoted.key",): 3,
        ("b",): 4,
        ("b", "c", "d"): 4,
        ("é",): 9,
        ("e",): 10,
        ("e", 0): 11,
        ("e", 0, 1): 11,
        ("e", 1): 11,
        ("e", 2): 13,
        ("f", "g"): 14,
        ("f", "h", "i"): 14,
        ("t",): 15,
        ("t", "k"): 16,
        ("t", "u"): 17,
        ("t", "u", "k"): 18,
        ("arr",): 19,
        ("arr", 0): 19,
        ("arr", 0, "x"): 20,
        ("arr", 0, "y"): 21,
        ("arr", 1): 23,
        ("arr", 1, "x"): 24,
        ("arr", 1, "sub", 0, "z"): 26,
        ("arr", 1, "sub", 1, "z"): 28,
        ("arr", 1, "sub", 1, "deep"): 29,
        ("arr", 1, "sub", 1, "deep", "w", 0, "p"): 30,
        ("arr", 1, "sub", 1, "deep", "w", 1, "p"): 31,
        ("v",): 32,
        ("v", "w x", "z"): 33,
    }
    found = key_lines(LINES)
    assert {key: found.get(key) for key in expected} == expected
    assert key_lines(LINES.replace("\n", "\r\n")) == found


def test_lines_cover_exactly_what_tomllib_reads() -> None:
    def paths(value: Any, path: tuple[Any, ...] = ()) -> set[tuple[Any, ...]]:
        parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        return {path} | {below for key, part in parts for below in paths(part, (*path, key))}

    assert paths(tomllib.loads(LINES)) - {()} == set(key_lines(LINES))


def test_overrides_take_toml_values_and_bare_strings(tmp_path: Path) -> None:
    text = "count = 4\nnumbers = [5, 6]\n[[entries]]\nlanguage = 'de'\n"
    resolved = load(
        tmp_path,
        text,
        "count=5",
        "count=6",
        "word=plain words",
        'mapping."a.b"=x=y',
        "inner.lr=1e-3",
        "entries.0.language=fr",
        "entries.1.language=es",
        "numbers.1=7",
        "maybe={name='n'}",
    )
    config = resolved.config
    assert (config.count, config.word, config.mapping, config.inner.lr) == (6, "plain words", {"a.b": "x=y"}, 0.001)
    assert [entry.language for entry in config.entries] == ["fr", "es"]
    assert (config.numbers, config.maybe) == ((5, 7), Inner(name="n"))
    changed = {key for key, origin in resolved.origins.items() if origin == "--set"}
    assert {"count", "word", "mapping", "inner.lr", "entries.0.language", "numbers", "maybe.name"} <= changed
    assert "ratio" not in changed


def test_an_override_cannot_smuggle_in_other_keys(tmp_path: Path) -> None:
    assert load(tmp_path, "", "word=1\ncount = 7").config == Conf(word="1\ncount = 7")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("count", "expected key=value"),
        ("=1", "expected key=value"),
        ("a..b=1", "expected key=value"),
        ("count.x=1", "count is 4, which has no keys"),
        ("entries.3.language=de", "entries has 1 entries: the index is one of 0 to 1"),
        ("entries.language=de", "entries is an array: give an index, such as entries.0"),
    ],
)
def test_overrides_that_do_not_fit(tmp_path: Path, option: str, message: str) -> None:
    found = failures(tmp_path, "count = 4\nentries = [{language = 'de'}]", option)
    assert found[0][0] == f"--set {option}"
    assert message in found[0][2]


def test_paths_start_at_the_recipe_or_here_and_know_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("XLT_DATA", "/data/sets")
    monkeypatch.setenv("EMPTY", "")
    text = "file = '../a.txt'\nentries = [{language = 'de', files = ['${XLT_DATA}/b', 'c']}]"
    config = load(tmp_path, text).config
    assert config.file == tmp_path.parent / "a.txt"
    assert config.entries[0].files == (Path("/data/sets/b"), tmp_path / "c")
    assert load(tmp_path, text, "file=d.txt").config.file == here / "d.txt"
    [(where, key, message)] = failures(tmp_path, "\nfile = '${EMPTY}/a'")
    assert (where, key) == ("recipe.toml:2", "file")
    assert "environment variable EMPTY is not set" in message
    assert load(tmp_path, "file = '${EMPTY:-b}/${XLT_DATA:-c}'").config.file == tmp_path / "b" / "data" / "sets"


def test_where_a_recipe_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {"demo": "\ncount = 7\n", "cls-paper": "count = 8\n"}
    monkeypatch.setattr("xlt_engine.engine.recipe.load.packaged_recipes", lambda: texts)
    monkeypatch.chdir(tmp_path)
    packaged = load_recipe(cls=Conf)
    assert packaged.config.count == 7
    assert packaged.origins["count"] == "recipe demo (packaged):2"
    assert load_recipe("cls-paper", cls=Conf).config.count == 8
    (tmp_path / "xlt.toml").write_text("count = 9")
    local = load_recipe(cls=Conf)
    assert (local.config.count, local.origins["count"]) == (9, "xlt.toml:1")
    with pytest.raises(ConfigError, match=r"no recipe 'cls-papr'; did you mean cls-paper\? .* demo, cls-paper"):
        load_recipe("cls-papr", cls=Conf)
    for missing in ("no.toml", "./no", Path("no")):
        with pytest.raises(ConfigError, match="cannot read the recipe no.*: No such file"):
            load_recipe(missing, cls=Conf)


def test_origins_and_the_way_back(tmp_path: Path) -> None:
    text = r"""word = "a\"\u007f\té\n"
file = "f"
[mapping]
"a b" = "c"
[maybe]
[[entries]]
language = "de"
files = ["x"]
"""
    resolved = load(tmp_path, text, "inner.lr=1e-7", "entries.1.language=es", "shares=[0.5]")
    path = tmp_path / "recipe.toml"
    assert resolved.origins["word"] == f"{path}:1"
    assert resolved.origins["entries.0.files"] == f"{path}:8"
    assert resolved.origins["entries.0.deep.lr"] == "default"
    assert resolved.origins["inner.lr"] == resolved.origins["entries.1.language"] == "--set"
    dumped = dump_toml(resolved.config, resolved.origins)
    assert f'language = "de"  # {path}:7' in dumped
    assert "count = 3  # default" in dumped
    other = tmp_path / "elsewhere"
    other.mkdir()
    again = load(other, dumped)
    assert again.config == resolved.config
    assert dump_toml(again.config, resolved.origins) == dumped
    assert again.config != load(tmp_path, text).config


def test_a_full_configuration_comes_back(tmp_path: Path) -> None:
    text = 'task = "ner"\nworld = {}\n[model.new]\n[selftrain]\nrounds = 1.5\n[[targets]]\nlanguage = "de"\n'
    resolved = load(tmp_path, text, cls=RunConfig)
    leaves = {key for key in resolved.origins if "." not in key}
    assert leaves >= {
        f.name for f in dataclasses.fields(RunConfig) if isinstance(getattr(resolved.config, f.name), str)
    }
    assert load(tmp_path, resolved.dump(), cls=RunConfig).config == resolved.config


def test_one_source_or_several(tmp_path: Path) -> None:
    """One table is an array of one; keys, origins and the dump are as the recipe writes them."""
    rest = 'task = "ner"\n[model.new]\n[[targets]]\nlanguage = "de"\nunlabelled = ["de"]\n'
    one, several = '[source]\ntrain = "en"\n', '[[source]]\ntrain = "en"\n[[source]]\nlanguage = "fr"\n'
    single = load(tmp_path, rest + one, cls=RunConfig)
    assert (len(single.config.sources), single.origins["source.train"]) == (1, f"{tmp_path / 'recipe.toml'}:7")
    assert "[source]\n" in single.dump()
    assert load(tmp_path, single.dump(), cls=RunConfig).config == single.config
    two = load(tmp_path, rest + several, "source.1.train=fr", cls=RunConfig)
    assert [s.language for s in two.config.sources] == ["en", "fr"]
    assert (two.origins["source.1.language"], two.origins["source.1.train"]) == (
        f"{tmp_path / 'recipe.toml'}:9",
        "--set",
    )
    assert load(tmp_path, two.dump(), cls=RunConfig).config == two.config
    assert load(tmp_path, rest, "source.train=en", cls=RunConfig).config.source.train is not None
    assert failures(tmp_path, rest + several, cls=RunConfig) == [
        ("recipe.toml:8", "source.1.train", "is missing: the labelled training file")
    ]
    for wrong, message in (("[]", "empty; give at least one table"), ("3", "3 given, expected an array")):
        assert message in failures(tmp_path, rest, f"source={wrong}", cls=RunConfig)[0][2]


@pytest.mark.parametrize("removed", REMOVED)
def test_removed_keys_name_the_changelog_and_what_to_do(tmp_path: Path, removed: str) -> None:
    """In a file and as an option, with place and advice; the changelog has the key."""
    key, _, value = removed.partition(" = ")
    table, _, name = (key if "." in key else f"selftrain.alpha.{key}").rpartition(".")
    table = table.replace(".N", ".0")
    head = f"[{table}]" if table != "targets.0" else "[[targets]]"
    text = f"# a recipe\n{head}\n{name} = {value or 7}\n"
    when = "after" if removed in AFTER_0_2_0 else "in"
    told = f"removed {when} 0.2.0; see CHANGELOG.md: {REMOVED[removed]}"
    place = (f"{table}.{name}", told)
    assert ("recipe.toml:3", *place) in failures(tmp_path, text, cls=RunConfig)
    option = f"{table}.{name}={value or 7}"
    assert (f"--set {option}", *place) in failures(tmp_path, "", option, cls=RunConfig)
    changes = (Path(__file__).parents[3] / "CHANGELOG.md").read_text("utf-8")
    assert f"`{removed}`" in changes


EARLIER = {
    "world": """kind = "demo"\nanchors = 0.3\nletter_overlap = 0.0\nword_order = 0.0\naffixes = 0.0
label_shift = 0.0\ndomain_shift = 0.0\ngeneral_sentences = 2500\ncontrol_sentences = 3000
train_sentences = 1500\nunlabelled_sentences = 3000\ntest_sentences = 800\n""",
    "training": "l2_to_base = 0.0\n",
    "selftrain": "mlm_weight = 0.0\n",
    "selftrain.soft": 'sides = "target"\nteacher_folders = []\nteacher_weights = []\n',
    "btf": 'pairs_share = 0.5\npair_positions = "reset"\n',
    "finetune": 'translated = "both"\ntranslated_all = false\n',
    "cotrain": "second_uses_parallel_data = false\n",
    "contrastive": 'align = "both"\ntranslations = {}\nsemantic = { on = true, lr = 1e-5, weight = 0.5 }\n',
}
"""What `config.toml` had of each table in versions before, where nothing of it was used."""


def as_earlier(text: str) -> str:
    for table, lines in EARLIER.items():
        text = text.replace(f"\n[{table}]\n", f"\n[{table}]\n{lines}", 1)
    return "uses_parallel_data = false\n" + text.replace("\n[[targets]]\n", "\n[[targets]]\npairs = []\n")


def test_the_settings_of_an_earlier_run_load_where_a_removed_key_did_nothing(tmp_path: Path) -> None:
    now = load_recipe("demo")
    older = tmp_path / "config.toml"
    older.write_text(as_earlier(now.dump()), encoding="utf-8")
    assert all(lines in older.read_text("utf-8") for lines in EARLIER.values())
    assert load_recipe(older).config == now.config
    assert load_recipe("demo", ["world.kind=demo"]).config == now.config
    assert load_recipe("demo", ['each.domain=["books"]']).config == now.config
    with pytest.raises(RecipeError, match="each: removed after 0.2.0.*run it for each"):
        load_recipe("demo", ['each.domain=["books", "dvd"]'])
    older.write_text(
        older.read_text("utf-8").replace("anchors = 0.3", "anchors = 0.5").replace('"demo"', '"truth"'), "utf-8"
    )
    with pytest.raises(RecipeError) as told:
        load_recipe(older)
    assert [problem.key for problem in told.value.problems] == ["world.kind", "world.anchors"]
    assert str(told.value).count("leave it out; benchmarks/truth_world makes worlds with hidden labels") == 2


def test_an_earlier_run_is_gone_on_with_read_and_asked(tiny: Any) -> None:
    """With removed keys in its `config.toml`: resuming by it trains nothing, and its report and models are there."""
    made = tiny("ner").run("selftrain.rounds=1")
    settings = made.folder / "config.toml"
    settings.write_text(as_earlier(settings.read_text("utf-8")), encoding="utf-8")
    assert "mlm_weight = 0.0" in settings.read_text("utf-8")
    assert FinishedRun.open(made.folder).config == load_recipe(settings).config
    assert run(settings, run_dir=made.folder, jobs=1).done == ()
    assert "mlm_weight" not in settings.read_text("utf-8")
    settings.write_text(as_earlier(settings.read_text("utf-8")), encoding="utf-8")
    assert write_report(made.folder).exists()
    assert predict(chosen_model(made.folder, "de"), ["heute sah Anna Paris"])
