"""Accuracy of mathematical answers: plain comparison where that can tell, else `symbolic`'s."""

import re
from decimal import Decimal

from g2rpo_jax.rewards.parse import Unscorable

# Longer than any honest answer. What passes on to math-verify, whose time no length bounds, is
# compared in a child process.
MAX_MATH_CHARS = 2500

# Possessive: nothing matched is ever given back.
_PLAIN = re.compile(
    r"[+-]?(?:[0-9]{1,3}(?:,[0-9]{3})++|[0-9]{1,100}+)?(?:\.[0-9]{0,100}+)?(?:[eE][+-]?[0-9]{1,3})?"
)


def equal_if_plain(answer: str, truth: str, data_type: str = "image") -> float | None:
    """1 if two numbers or formulas are equal, else 0; None where only `symbolic` can tell.

        R = [a = y], as plain numbers or texts, else by math-verify in a child process

    Equal texts (white space aside) are equal. Two plain numbers are compared as math-verify does:
    exactly if both are integers, after rounding to six decimals otherwise.
    Raises:
      Unscorable: no_expression for an empty answer; too_long; bad_truth (the truth is too long).
    Cost: a call of math-verify, about 5 ms of a child process, for what is no plain number
    Source: the reward of OneThinker's math rows (2025); the package math-verify.
    """
    if len(truth) > MAX_MATH_CHARS:
        raise Unscorable("bad_truth")
    if len(answer) > MAX_MATH_CHARS:
        raise Unscorable("too_long")
    said, right = _undelimited(answer), _undelimited(truth)
    if not said:
        raise Unscorable("no_expression")
    if said == right:
        return 1.0
    a, b = _plain(said), _plain(right)
    if a is None or b is None:
        return None
    # Beyond 10**20 a Decimal of 28 digits cannot be rounded to six places.
    if ("." in said or "." in right) and max(abs(a), abs(b)) < 10**20:
        a, b = round(a, 6), round(b, 6)
    return float(a == b)


def _undelimited(text: str) -> str:
    text = text.strip()
    for start, end in (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]")):
        inner = text[len(start) : -len(end)]
        if text.startswith(start) and text.endswith(end) and start not in inner:
            text = inner.strip()
    return " ".join(text.split())


def _plain(text: str) -> Decimal | None:
    if not _PLAIN.fullmatch(text) or not any(map(str.isdigit, text)):
        return None
    return Decimal(text.replace(",", ""))
