"""The shaping section of a run's configuration."""

import dataclasses

from g2rpo_jax import tables

BOUNDS = ("tasks", "auto")
# Least and greatest value of every number; `None`: no greatest.
RANGES = {
    "length_weight": (0.0, 1.0),
    "length_min_accuracy": (0.0, 1.0),
    "length_max": (0, None),
    "overlong_share": (1e-3, 1.0),
    "budget": (1.0, None),
    "budget_decay": (1e-3, 1.0),
    "budget_steps": (1, None),
    "entropy_weight": (0.0, None),
    "auto_right": (0.0, 1.0),
    "auto_decay": (0.0, 1.0),
    "auto_rows": (1.0, None),
    "auto_margin": (0.0, None),
    "auto_difference": (1e-3, 1.0),
    "auto_steps": (1, None),
}
RISING = {  # field: (how many numbers, between what)
    "auto_quantiles": (4, 0.0, 1.0),
    "auto_entropy": (2, 0.0, float("inf")),
    "auto_entropy_range": (2, 0.0, float("inf")),
}


@dataclasses.dataclass(frozen=True)
class ShapingConfig:
    """A length reward and an entropy term (OpenVLThinkerV2 eqs. 9 and 10, and their rivals).

    Attributes:
      length_weight: share of the accuracy weight that goes to the length reward.
      length_min_accuracy: responses less accurate than this get no length reward (0: all get it, as
        in the paper; 1: only wholly right ones).
      length_form: entry of LENGTH_FORMS.
      length: whose corners the trapezoid has: "tasks", those of the task table; "auto", each task's
        own, from the lengths of right and wrong responses to the same prompts.
      length_max: L_max of soft_overlong and cosine, tokens; 0: what the row's task may answer.
      overlong_share: L_cache / L_max of soft_overlong (DAPO: 4096 of 20480).
      cosine_right, cosine_wrong: cosine's rewards of a right and of a wrong response at length 0
        and at L_max.
      budget, budget_decay, budget_steps: budget's first target in tokens, and by what it is
        multiplied every so many steps.
      entropy_weight: weight of the entropy term in the loss.
      entropy_estimator: exact, sampled (the release's; zero expected gradient on-policy), score.
      entropy_form: entry of ENTROPY_FORMS.
      entropy: whose bounds the envelope has: "tasks", those of the task table; "auto", around each
        task's own mean over its first steps.
      auto_right: a response at least so accurate counts as right (length=auto).
      auto_decay: share of its weight that an earlier step's row keeps when a task has new ones.
      auto_rows: rows with right and wrong responses until a task has a length band; until then its
        length reward is 0.
      auto_quantiles: of the right lengths, for the four corners.
      auto_margin: the outer corners are moved out by this share.
      auto_difference: greatest difference of the two distributions of lengths, beyond that of
        chance, at which the band is as narrow as these corners; without one it is everything.
      auto_steps: steps over which a task's early entropy is averaged (entropy=auto).
      auto_entropy: lower and upper bound as multiples of it.
      auto_entropy_range: floor and ceiling of both bounds, nats per token.
    """

    length_weight: float = 0.1
    length_min_accuracy: float = 0.0
    length_form: str = "trapezoid"
    length: str = "tasks"
    length_max: int = 0
    overlong_share: float = 0.2
    cosine_right: tuple[float, ...] = (1.0, 0.5)
    cosine_wrong: tuple[float, ...] = (-1.0, -0.5)
    budget: float = 256.0
    budget_decay: float = 0.7
    budget_steps: int = 100
    entropy_weight: float = 0.02
    entropy_estimator: str = "exact"
    entropy_form: str = "envelope"
    entropy: str = "tasks"
    auto_right: float = 0.5
    auto_decay: float = 0.95
    auto_rows: float = 16.0
    auto_quantiles: tuple[float, ...] = (0.1, 0.25, 0.75, 0.9)
    auto_margin: float = 0.25
    auto_difference: float = 0.25
    auto_steps: int = 10
    auto_entropy: tuple[float, ...] = (0.5, 1.5)
    auto_entropy_range: tuple[float, ...] = (0.05, 2.0)

    def __post_init__(self):
        for field, (low, high) in RANGES.items():
            value = getattr(self, field)
            if not low <= value or (high is not None and value > high):
                bound = f"lie in [{low}, {high}]" if high is not None else f"be at least {low}"
                raise ValueError(f"shaping.{field}={value} must {bound}")
        for field, (count, low, high) in RISING.items():
            values = getattr(self, field)
            inside = all(low <= value <= high for value in values)
            if len(values) != count or list(values) != sorted(values) or not inside:
                raise ValueError(
                    f"shaping.{field}={values} must be {count} rising numbers in [{low}, {high}]"
                )
        for field in ("cosine_right", "cosine_wrong"):
            if len(getattr(self, field)) != 2:
                raise ValueError(
                    f"shaping.{field}={getattr(self, field)} must be two rewards: at length 0 and "
                    "at L_max"
                )
        forms = {"length": "trapezoid", "entropy": "envelope"}
        for field, form in forms.items():
            chosen, name = getattr(self, field), f"shaping.{field}"
            tables.lookup(dict.fromkeys(BOUNDS), chosen, kind=name)
            if chosen == "auto" and getattr(self, f"{field}_form") != form:
                raise ValueError(
                    f"{name}=auto finds the bounds of the {form}, and {name}_form="
                    f"{getattr(self, f'{field}_form')} has none: set {name}=tasks"
                )
