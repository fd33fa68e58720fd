"""Writes docs/evidence.md: template.md with this study's verdicts and tables in their places."""

import functools
import string
from pathlib import Path

from evidence import pictures, tables, verdicts
from evidence.found import Study

TEMPLATE = Path(__file__).with_name("template.md")


# Each part of the page: what it needs of the study's folder, and what makes it.
SECTIONS = {
    "verdicts": ((), verdicts.paragraph),
    "count": ((), verdicts.count),
    "shaping": (("as_scored",), tables.shaping),
    "lengths": (("as_scored",), tables.lengths),
    "estimators": (("as_scored",), functools.partial(tables.estimators, sweep="as_scored")),
    "unlike": (("unlike",), functools.partial(tables.estimators, sweep="unlike")),
    "ledger": (("unlike",), tables.ledger),
    "noisy": (("noisy",), functools.partial(tables.estimators, sweep="noisy")),
    "groups": (("as_scored", "groups"), tables.groups),
    "ways": (("answers", "supervised"), tables.ways),
    "equity": (("equity.json",), tables.equity),
    "times": (("times.json",), tables.times),
}


def write(out: Path, docs: Path) -> None:
    """The page and its pictures, of the results in `out`; of what is not there it says so."""
    study, found = Study(out), {}
    for name, (needed, make) in SECTIONS.items():
        missing = [part for part in needed if not (out / part).exists()]
        found[name] = f"*Not measured: {', '.join(missing)}.*" if missing else make(study)
    text = string.Template(TEMPLATE.read_text()).substitute(found)
    (docs / "evidence.md").write_text(text)
    pictures.draw(study, docs / "images")
    print(f"{docs}/evidence.md and {len(pictures.PICTURES)} pictures in {docs}/images")
