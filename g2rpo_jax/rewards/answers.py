"""Accuracy of short answers: multiple choice, numerical, regression."""

from g2rpo_jax.rewards.parse import Unscorable, number, of_the_row

MAX_CHOICE_CHARS = 2000


def multiple_choice(answer: str, truth: str, data_type: str = "image") -> float:
    """1 if the answer names the option that the truth names, else 0.

    `B`, `b`, `(B)`, `B.`, `**B**`, `$B$`, `\\boxed{B}`, `\\text{B}` and `B. its text` all name B;
    `A or B` names none. Where the truth is no letter, normalised texts are compared.
    Raises:
      Unscorable: too_long.
    """
    if len(answer) > MAX_CHOICE_CHARS:
        raise Unscorable("too_long")
    said, right = _bare(answer), _bare(truth)
    if said == right or _letter(said) == _letter(right):
        return 1.0
    # Several letters may be right: "A, C" is "AC".
    letters = said.translate(_SEPARATORS)
    return float(letters.isalpha() and letters == right.translate(_SEPARATORS))


_SEPARATORS = str.maketrans("", "", " ,;&()")
_WRAPPERS = (
    ("\\boxed{", "}"),
    ("\\text{", "}"),
    ("\\textbf{", "}"),
    ("\\mathrm{", "}"),
    ("(", ")"),
)


def _bare(text: str) -> str:
    text = text.strip(" \t\r\n*$`\"'.").casefold()
    for start, end in _WRAPPERS:
        inner = text[len(start) : -len(end)]
        if text.startswith(start) and text.endswith(end) and start not in inner:
            text = inner.strip(" .*")
    return text


def _letter(text: str) -> str:
    """The letter of `A. text`, `A) text`, `A: text` or `(A) text`; any other text as it is."""
    inner = text[1:] if text.startswith("(") else text
    if inner[:1].isalpha() and inner[1:2] in tuple(".):") and inner[2:3] in ("", " ", "\n", "\t"):
        return inner[0]
    return text


def numerical(answer: str, truth: str, data_type: str = "image") -> float:
    """1 if both are equal after rounding to two decimals (as float64, half to even), else 0.

    Raises:
      Unscorable: the answer is no finite number, or (bad_truth) the truth is none.
    """
    right = of_the_row(number, truth)
    return float(round(float(number(answer)), 2) == round(float(right), 2))


def regression(answer: str, truth: str, data_type: str = "image") -> float:
    """Mean relative accuracy: the share of t = 0.50, 0.55 .. 0.95 with |a - y| / |y| < 1 - t.

    Exact in decimals: 9.5 for 10 misses t = 0.95, whatever 1 - 0.95 is in binary. For y = 0 the
    relative error is 0 if a = 0 and infinite otherwise (the release adds 1e-8 to |y| instead).
    Raises:
      Unscorable: the answer is no finite number, or (bad_truth) the truth is none.
    Source: the reward of OneThinker's regression tasks; Yang et al. 2024 (VSI-Bench).
    """
    right = of_the_row(number, truth)
    error, scale = abs(number(answer) - right), abs(right)
    if not scale:
        return float(not error)
    # 1 - t = k / 20 for k = 10 .. 1
    return sum(20 * error < k * scale for k in range(1, 11)) / 10
