"""What a sweep runs: arms x seeds, every cell checked before anything starts.

The command line and the file say the same; `Plan.plain` is the file's form:

    {"config": "configs/onethinker.py:tiny", "set": {"steps": 50},
     "arms": {"ours": {"advantage.name": "g2rpo"}, "grpo": {"advantage.name": "grpo"}},
     "grid": {"optim.lr": [1e-4, 3e-4]}, "seeds": [0, 1, 2], "baseline": "grpo"}

`grid` multiplies the arms. A baseline is the name of an arm, or fields (FIELD=VALUE,... or an
object): then each arm is compared with the arm that differs from it in these alone.
"""

import dataclasses
import functools
import importlib.util
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections
from absl import flags
from ml_collections import config_flags

from g2rpo_jax.config import RunConfig, resolve
from g2rpo_jax.report import write_json
from g2rpo_jax.tables import lookup, nearest

FILE = "sweep.json"  # where a sweep's folder keeps its plan
KEYS = ("config", "set", "arms", "grid", "seeds", "baseline")
LONGEST_NAME = 120  # of an arm: it is a folder, too
Fields = dict[str, Any]  # dotted path of a field -> its value


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run of a sweep.

    Attributes:
      arm: its name.
      fields: what the arm sets, typed.
      flags: of launch/train.py: the config file and all that is set (--set, the arm, the seed).
      config: resolved.
      folder: its run folder.
    """

    arm: str
    seed: int
    fields: Fields
    flags: tuple[str, ...]
    config: RunConfig
    folder: Path

    @property
    def name(self) -> str:
        return f"{self.arm} seed {self.seed}"


@dataclasses.dataclass(frozen=True)
class Plan:
    """A sweep. Values are of the configuration's own types.

    Attributes:
      config: the config file, FILE.py:VARIANT.
      common: fields that are set for all; an arm's own fields win.
      arms: the fields of each, in order; names are as they will be folders.
      seeds: distinct.
      baseline: None; an arm's name; or fields.
      resolved: the configuration of each arm, at the config file's seed.
    """

    config: str
    common: Fields
    arms: dict[str, Fields]
    seeds: tuple[int, ...]
    baseline: str | Fields | None
    resolved: dict[str, RunConfig]

    def plain(self) -> dict:
        """As a file says it, for JSON; `parse` of it gives the same plan."""
        return {
            "config": self.config,
            "set": self.common,
            "arms": self.arms,
            "seeds": list(self.seeds),
            "baseline": self.baseline,
        }

    def opponent(self, arm: str) -> str | None:
        """The arm that `arm` is compared with; None if there is none, or it is that arm itself."""
        if self.baseline is None:
            return None
        if isinstance(self.baseline, str):
            return None if arm == self.baseline else self.baseline
        wanted = self.arms[arm] | self.baseline
        found = next((name for name, fields in self.arms.items() if fields == wanted), None)
        return None if found == arm else found

    def cells(self, out: Path) -> list[Cell]:
        """All cells; those of the first seed come first, so that every arm soon has a result."""
        made = []
        for seed, (arm, fields) in itertools.product(self.seeds, self.arms.items()):
            asked = self.common | fields | {"seed": seed}
            words = (f"--config.{field}={as_text(value)}" for field, value in asked.items())
            made.append(
                Cell(
                    arm=arm,
                    seed=seed,
                    fields=fields,
                    flags=(f"--config={self.config}", *words),
                    config=dataclasses.replace(self.resolved[arm], seed=seed),
                    folder=Path(out) / "cells" / arm / f"seed-{seed}",
                )
            )
        return made


def parse(content: Mapping[str, Any]) -> Plan:
    """A plan from the content of a file (see above), every arm's configuration resolved.

    Raises:
      ValueError: an unknown key or field (with the nearest name), a value that its field does not
        take, a configuration that `resolve` refuses (with the arm's name), two arms that are the
        same run, a baseline that is no arm, no held-out evaluation to compare.
    """
    for key in content:
        if key not in KEYS:
            raise ValueError(f"unknown key {key!r} of a sweep{nearest(key, KEYS)}")
    if not content.get("config"):
        raise ValueError("which configuration? --config=FILE.py:VARIANT, or 'config' in the file")
    config = str(content["config"])
    common = _texts(content.get("set") or {}, "set")
    resolved, arms = {}, {}
    for label, fields in _arms(content).items():
        try:
            found = load(config, common | fields)
        except ValueError as error:
            raise ValueError(f"arm {label}: {error}" if label else str(error)) from error
        typed = typed_values(config, fields)
        name = label or "all"
        _check_name(name)
        for other, its in resolved.items():
            if its == found:
                raise ValueError(f"arms {other} and {name} are the same run: leave one out")
        resolved[name], arms[name] = found, typed
    for name, found in resolved.items():
        if not found.eval.every:
            raise ValueError(f"arm {name}: eval.every=0: nothing held out would be compared")
    plan = Plan(config, typed_values(config, common), arms, _seeds(content), None, resolved)
    return dataclasses.replace(plan, baseline=_baseline(content.get("baseline"), plan))


def write(plan: Plan, out: Path) -> None:
    """Keeps the plan in the sweep's folder, as a file that --file takes, too."""
    write_json(Path(out) / FILE, plan.plain())


def load(config: str, texts: Mapping[str, str]) -> RunConfig:
    """The resolved configuration of a file with fields set, read as launch/train.py reads flags.

    Raises:
      ValueError: no such file or field, or a value that its field does not take.
    """
    _check_fields(_parsed(config, {}), texts)
    return resolve(_parsed(config, texts))


def _parsed(config: str, texts: Mapping[str, str]) -> ml_collections.ConfigDict:
    path, _, variant = config.partition(":")
    spec = importlib.util.spec_from_file_location("sweep_config", path)
    if spec is None or not Path(path).is_file():
        raise ValueError(f"there is no config file {path}: --config=FILE.py:VARIANT")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = module.get_config(*[variant] if variant else [])
    values = flags.FlagValues()
    argv = ["sweep", *(f"--config.{field}={text}" for field, text in texts.items())]
    try:
        config_flags.DEFINE_config_dict("config", found, flag_values=values, sys_argv=argv)
        values(argv)
    except flags.Error as error:
        raise ValueError(str(error)) from error
    return values.config


def _check_fields(config: ml_collections.ConfigDict, fields: Mapping[str, str]) -> None:
    for field in fields:
        section, walked = config, ""
        for name in field.split("."):
            if not isinstance(section, ml_collections.ConfigDict):
                raise ValueError(f"unknown field {field}: {walked[:-1]} is no section")
            if name not in section:
                raise ValueError(f"unknown field {walked}{name}{nearest(name, section.keys())}")
            section, walked = section[name], f"{walked}{name}."
        if isinstance(section, ml_collections.ConfigDict):
            raise ValueError(f"{field} is a section: name one of its fields, {field}.NAME")


def typed_values(config: str, texts: Mapping[str, str]) -> Fields:
    """The values that a config file's fields take from texts, of the fields' own types."""
    found = _parsed(config, texts)
    return {f: functools.reduce(lambda at, name: at[name], f.split("."), found) for f in texts}


def as_text(value: Any) -> str:
    """A value as a flag writes it: what launch/train.py reads back as the same.

    Raises:
      ValueError: a value that no flag can write.
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return value
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return repr(tuple(value))
    raise ValueError(f"{value!r} cannot be set: give a number, a text, true, false or a list")


def split(text: str) -> list[str]:
    """Parts between commas that stand outside of brackets: "a,(1,2)" -> ["a", "(1,2)"]."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "([") - (character in ")]")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]


def assignment(text: str, flag: str) -> tuple[str, str]:
    """ "optim.lr=1e-4" -> ("optim.lr", "1e-4").

    Raises:
      ValueError: there is no "=" in it.
    """
    field, equals, value = text.partition("=")
    if not equals or not field:
        raise ValueError(f"--{flag}={text}: write --{flag}=FIELD=VALUE, e.g. optim.lr=1e-4")
    return field.strip().removeprefix("config."), value.strip()


def from_flags(
    content: Mapping[str, Any],
    config: str | None,
    common: Sequence[str],
    grid: Sequence[str],
    seeds: Sequence[str],
    baseline: str | None,
) -> dict:
    """The content of a file with what the flags say put on top, for `parse`."""
    out = dict(content)
    if config:
        out["config"] = config
    out["set"] = (content.get("set") or {}) | dict(assignment(t, "set") for t in common)
    axes = [assignment(text, "grid") for text in grid]
    out["grid"] = (content.get("grid") or {}) | {field: split(values) for field, values in axes}
    if seeds:
        out["seeds"] = list(seeds)
    if baseline:
        out["baseline"] = baseline
    return out


def read_file(path: Path) -> dict:
    """The content of a sweep's JSON file.

    Raises:
      ValueError: it cannot be read, or holds no object.
    """
    try:
        content = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold an object with the keys {', '.join(KEYS)}")
    return content


def _arms(content: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Label -> fields as texts: the named arms times the grid; one without label if both lack."""
    named = content.get("arms") or {"": {}}
    if not isinstance(named, Mapping):
        raise ValueError("'arms' must be an object: name -> fields")
    axes = content.get("grid") or {}
    for field, values in axes.items():
        if not isinstance(values, list) or not values:
            raise ValueError(f"grid of {field}: give a list of values")
    points = itertools.product(
        *([(field, as_text(value)) for value in values] for field, values in axes.items())
    )
    short = _short_names(list(axes))
    arms: dict[str, dict[str, str]] = {}
    for (name, fields), point in itertools.product(named.items(), list(points)):
        label = [name] if name else []
        label += [f"{short[field]}={text}" for field, text in point]
        key = _folder_name(",".join(label))
        if key in arms:
            raise ValueError(f"two arms would be called {key}: name the arms in a --file")
        arms[key] = _texts(fields, f"arm {name}") | dict(point)
    return arms


def _short_names(fields: Sequence[str]) -> dict[str, str]:
    """What an arm's name calls each field: advantage.name is "advantage", optim.lr is "lr"."""
    short = {f: f.removesuffix(".name").rpartition(".")[2] for f in fields}
    names = list(short.values())
    return {field: name if names.count(name) == 1 else field for field, name in short.items()}


def _texts(fields: Any, where: str) -> dict[str, str]:
    if not isinstance(fields, Mapping):
        raise ValueError(f"{where} must be an object: field -> value")
    if "seed" in fields:
        raise ValueError(f"{where} sets seed: seeds are told by --seeds, all arms run at each")
    return {field: as_text(value) for field, value in fields.items()}


def _seeds(content: Mapping[str, Any]) -> tuple[int, ...]:
    asked = content.get("seeds") or [0]
    try:
        seeds = tuple(int(str(seed)) for seed in asked)
    except (TypeError, ValueError) as error:
        raise ValueError(f"seeds={asked!r}: give whole numbers, e.g. 0,1,2") from error
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds={asked!r} names one twice")
    return seeds


def _baseline(asked: Any, plan: Plan) -> str | Fields | None:
    if not asked:
        return None
    if isinstance(asked, str) and (_folder_name(asked) in plan.arms or "=" not in asked):
        lookup(plan.arms, _folder_name(asked), kind="arm as the baseline")
        return _folder_name(asked)
    if isinstance(asked, str):
        asked = dict(assignment(part, "baseline") for part in split(asked))
    texts = _texts(asked, "baseline")
    _check_fields(_parsed(plan.config, {}), texts)
    fields = typed_values(plan.config, texts)
    if not any(fields.items() <= its.items() for its in plan.arms.values()):
        told = ", ".join(f"{field}={value}" for field, value in fields.items())
        raise ValueError(f"baseline {told}: no arm sets this; the arms are {', '.join(plan.arms)}")
    return fields


def _folder_name(label: str) -> str:
    without = re.sub(r",+(?=,|$)", "", re.sub(r"[\s()\[\]'\"]", "", label))  # "(0.5,)": "0.5"
    return re.sub(r"[^\w.=,+-]+", "_", without)


def _check_name(name: str) -> None:
    if not re.fullmatch(r"[\w=+-][\w.=,+-]*", name) or len(name) > LONGEST_NAME:
        raise ValueError(
            f"arm {name!r} cannot be a folder: at most {LONGEST_NAME} letters, digits and .=,+-; "
            "name the arms in a --file"
        )
