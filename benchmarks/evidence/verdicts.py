"""The claims, each with what was measured: held, did not hold, or open."""

import dataclasses
import functools
from collections.abc import Callable

from evidence.found import Study

from g2rpo_jax.sweep.results import Interval, shown


@dataclasses.dataclass(frozen=True)
class Claim:
    """A statement that one number decides: it holds if the number is above 0.

    Attributes:
      text: the statement.
      measure: the number with its interval; None where it was not measured.
      paper: whether it is the paper's; else it is of others, or ours.
    """

    text: str
    measure: Callable[[Study], Interval | None]
    paper: bool = True


def _in(sweep: str, arm: str, other: str | None) -> Callable[[Study], Interval | None]:
    return lambda s: s.gain((sweep, arm), other and (sweep, other))


_scored = functools.partial(_in, "as_scored")


CLAIMS = (
    Claim("G2RPO lifts the cold start", _scored("g2rpo", None)),
    Claim("entropy shaping adds to G2RPO", _scored("g2rpo+entropy", "g2rpo")),
    Claim("length shaping adds to G2RPO", _scored("g2rpo+length", "g2rpo")),
    Claim("both shapings add to G2RPO", _scored("g2rpo+both", "g2rpo")),
    Claim("G2RPO beats GRPO on the tasks' own rewards", _scored("g2rpo", "grpo")),
    Claim("G2RPO beats EMA-GRPO on the tasks' own rewards", _scored("g2rpo", "ema_grpo")),
    Claim("G2RPO beats GDPO on the tasks' own rewards", _scored("g2rpo", "gdpo")),
    Claim("G2RPO beats Dr.GRPO on the tasks' own rewards", _scored("g2rpo", "dr_grpo")),
    Claim(
        "the release's two stages beat the paper's one", _scored("g2rpo_release", "g2rpo"), False
    ),
    Claim(
        "G2RPO beats GRPO on unlike scales with heavy tails",
        _in("unlike", "g2rpo", "grpo"),
    ),
    Claim(
        "G2RPO beats Dr.GRPO on unlike scales with heavy tails", _in("unlike", "g2rpo", "dr_grpo")
    ),
    Claim(
        "G2RPO beats EMA-GRPO on unlike scales with heavy tails", _in("unlike", "g2rpo", "ema_grpo")
    ),
    Claim("G2RPO beats GRPO where one mark of five is wrong", _in("noisy", "g2rpo", "grpo")),
    Claim(
        "bounds that set themselves do better than those set by hand",
        _scored("g2rpo+both_auto", "g2rpo+both"),
        False,
    ),
    Claim(
        "groups of 16 do better than groups of 2 (GPG, table 11)",
        lambda s: s.gain(("groups", "G=16"), ("groups", "G=2")),
        False,
    ),
    Claim(
        "G2RPO raises pass@16 over the cold start's",
        lambda s: s.gain(("as_scored", "g2rpo"), None, "16", "pass"),
        False,
    ),
    Claim(
        "RL from answers does better than supervised training on the same number of answers",
        lambda s: s.gain(("answers", "g2rpo"), ("supervised", "answers")),
        False,
    ),
    Claim(
        "RL from answers does better than supervised training on answers with lines of thought",
        lambda s: s.gain(("answers", "g2rpo"), ("supervised", "written")),
        False,
    ),
)


def verdict(value: Interval | None) -> str:
    """ "held" or "the opposite" where the interval has one sign; else "open"."""
    if value is None or value.half is None:
        return "not measured"
    if value.mean - value.half > 0:
        return "held"
    return "the opposite" if value.mean + value.half < 0 else "open"


def paragraph(study: Study) -> str:
    """What held, what did not, what is open, with the numbers: of the paper's claims, then of
    others'."""
    found = [(claim, claim.measure(study)) for claim in CLAIMS]
    names = {"held": "held", "the opposite": "the opposite was seen", "open": "open"}
    names["not measured"] = "not measured"
    said = []
    for paper, whose in ((True, "Of the paper's claims"), (False, "Of others")):
        for key, name in names.items():
            chosen = [(c, v) for c, v in found if verdict(v) == key and c.paper == paper]
            its = [c.text + (f" ({shown(v, '+')})" if v else "") for c, v in chosen]
            if its:
                said.append(f"**{whose}, {name}:** {'; '.join(its)}.")
    return "\n".join(said)


def count(study: Study) -> str:
    """How many claims there are."""
    return str(len(CLAIMS))
