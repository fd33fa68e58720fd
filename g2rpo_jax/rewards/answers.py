"""Accuracy of short answers: multiple choice, numerical, regression, counting, label sets."""

from decimal import Decimal

from g2rpo_jax.rewards.parse import Unscorable, number, of_the_row

MAX_CHOICE_CHARS = 2000


def multiple_choice(answer: str, truth: str, data_type: str = "image") -> float:
    """1 if the answer names the option that the truth names, else 0.

        R = [option(answer) = option(truth)]

    `B`, `b`, `(B)`, `B.`, `**B**`, `$B$`, `\\boxed{B}`, `\\text{B}` and `B. its text` all name B;
    `A or B` names none. Where the truth is no letter, normalised texts are compared.
    Raises:
      Unscorable: too_long.
    Source: the reward of OneThinker's multiple-choice rows (2025); docs/rewards.md says where the
    notation of an answer is read otherwise.
    """
    if len(answer) > MAX_CHOICE_CHARS:
        raise Unscorable("too_long")
    said, right = _bare(answer), _bare(truth)
    if said == right or _letter(said) == _letter(right):
        return 1.0
    # Several letters may be right: "A, C" is "AC".
    letters = said.translate(_SEPARATORS)
    return float(letters.isalpha() and letters == right.translate(_SEPARATORS))


def choice_subset(answer: str, truth: str, data_type: str = "image") -> float:
    """Share of the right options that the answer names, 0 as soon as it names a wrong one.

        R = |answer| / |truth|  if answer is a subset of truth, else 0

    For rows with several right options: `A, C` and `AC` name two. Where the truth is no letters,
    as `multiple_choice`.
    Raises:
      Unscorable: too_long.
    Source: TW-GRPO, "Reinforcing Video Reasoning with Focused Thinking" (2025), its soft reward.
    """
    exact = multiple_choice(answer, truth, data_type)
    named, wanted = _options(answer), _options(truth)
    if exact or not wanted:
        return exact
    return len(named) / len(wanted) if named <= wanted else 0.0


def _options(text: str) -> set[str]:
    """The options that capital letters name; none if anything but such letters is named."""
    letters = _letter(_bare(text)).translate(_SEPARATORS)
    named = set(letters)
    capital = "".join(filter(str.isalpha, text)).upper() == "".join(filter(str.isalpha, text))
    single = len(named) == len(letters) == 1
    whole = letters.isalpha() and len(named) == len(letters)
    return named if whole and (capital or single) else set()


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

        R = [round(a, 2) = round(y, 2)]

    Raises:
      Unscorable: the answer is no finite number, or (bad_truth) the truth is none.
    Source: the reward of OneThinker's numerical rows (2025).
    """
    right = of_the_row(number, truth)
    return float(round(float(number(answer)), 2) == round(float(right), 2))


def regression(answer: str, truth: str, data_type: str = "image") -> float:
    """Mean relative accuracy: how many thresholds of relative error the answer stays under.

        R = mean over t = 0.50, 0.55 .. 0.95 of [ |a - y| / |y| < 1 - t ]

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


def counting(answer: str, truth: str, data_type: str = "image") -> float:
    """A count's reward falls with its relative error and is 0 from one half on.

        R = (1.5 - e) / 1.5  if e = |a - y| / |y| < 0.5, else 0

    So 1 for the exact count and 2/3 for the worst that is accepted; the paper's range, 1 to 1.5,
    divided by 1.5. For y = 0: 1 if a = 0, else 0.
    Raises:
      Unscorable: the answer is no finite number, or (bad_truth) the truth is none.
    Source: CrowdVLM-R1, "Crowd Counting using Fuzzy Group Relative Policy Reward" (2025).
    """
    right = of_the_row(number, truth)
    error, scale = abs(number(answer) - right), abs(right)
    if not scale:
        return float(not error)
    if 2 * error >= scale:
        return 0.0
    return float((Decimal("1.5") - error / scale) / Decimal("1.5"))


def label_set(answer: str, truth: str, data_type: str = "image") -> float:
    """Overlap of two sets of labels, separated by semicolons or lines; case does not count.

        R = |A and B| / |A or B|

    Raises:
      Unscorable: no_labels; bad_truth: the truth has none.
    Source: MedTVT-R1 (2025), whose labels are separated by semicolons.
    """
    right = of_the_row(_labels, truth)
    said = _labels(answer)
    return len(said & right) / len(said | right)


def _labels(text: str) -> set[str]:
    labels = {label.strip().casefold() for label in text.replace("\n", ";").split(";")} - {""}
    if not labels:
        raise Unscorable("no_labels")
    return labels
