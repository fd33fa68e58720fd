"""Which prompts are drawn: by what a prompt's earlier responses were, a chance to be drawn now.

The stream of prompts stays the shuffled one; a curriculum passes places of it over. So position,
resuming and shares of tasks are what they are without one, and drawing with chances c is drawing
with probabilities in proportion to c: a weighted draw whose largest weight is made 1.
"""

import dataclasses

import numpy as np

from g2rpo_jax.tables import lookup

EXPLORE_STEP, EXPLORE_LOW, EXPLORE_HIGH = 0.01, 0.05, 0.95  # GRESO's


@dataclasses.dataclass(frozen=True)
class CurriculumConfig:
    """Which prompts are drawn.

    Attributes:
      name: entry of CURRICULA.
      min_chance: least chance of any prompt, so that none is given up (GRESO's 0.01).
      easy_share, hard_share: greso's targets for the shares of sampled rows that are all right and
        all wrong.
      uniform_share: vas draws this share of the prompts without weights.
      temperature: of cures.
    """

    name: str = "uniform"
    min_chance: float = 0.01
    easy_share: float = 1 / 12
    hard_share: float = 1 / 6
    uniform_share: float = 0.5
    temperature: float = 0.1

    def __post_init__(self):
        lookup(CURRICULA, self.name, kind="curriculum")
        if not 0 < self.min_chance <= 1:
            raise ValueError(
                f"curriculum.min_chance={self.min_chance} must lie in (0, 1]: a prompt without any "
                "chance is passed over for ever"
            )
        for field in ("easy_share", "hard_share", "uniform_share"):
            if not 0 <= getattr(self, field) <= 1:
                raise ValueError(f"curriculum.{field}={getattr(self, field)} must lie in [0, 1]")
        if not self.temperature > 0:
            raise ValueError(f"curriculum.temperature={self.temperature} must be above 0")


@dataclasses.dataclass
class History:
    """What was seen of the R rows that prompts are drawn from, arrays [R].

    Attributes:
      tried_R: int64, responses sampled.
      right_R: float64, sum of their raw accuracies.
      last_R: float64, mean raw accuracy when the row was sampled last; 0 before.
      equal_R: int64, how often in a row, up to now, its responses were all equally accurate.
      explore_easy, explore_hard: greso's base probabilities.
    """

    tried_R: np.ndarray
    right_R: np.ndarray
    last_R: np.ndarray
    equal_R: np.ndarray
    explore_easy: float = 0.5
    explore_hard: float = 0.5

    @staticmethod
    def empty(rows: int) -> "History":
        """Nothing was sampled yet."""
        whole, real = np.zeros(rows, np.int64), np.zeros(rows)
        return History(whole, real, real.copy(), whole.copy())

    def add(self, rows: list[int], accuracy: list[np.ndarray], options: CurriculumConfig) -> None:
        """Takes in a round of sampled rows: their places in [R], and accuracies [G] of each."""
        equal = np.array([np.ptp(each) == 0 for each in accuracy], bool)
        mean = np.array([each.mean() for each in accuracy], float)
        for row, each, same, average in zip(rows, accuracy, equal, mean, strict=True):
            self.tried_R[row] += len(each)
            self.right_R[row] += each.sum()
            self.last_R[row] = average
            self.equal_R[row] = self.equal_R[row] + 1 if same else 0
        if rows:
            easy, hard = (equal & (mean > 0.5)).mean(), (equal & (mean <= 0.5)).mean()
            self.explore_easy = _moved(self.explore_easy, easy > options.easy_share)
            self.explore_hard = _moved(self.explore_hard, hard > options.hard_share)


def uniform(history: History, options: CurriculumConfig) -> np.ndarray:
    """Draws every prompt once before any comes again.

    chance = 1
    """
    del options
    return np.ones(len(history.tried_R))


def greso(history: History, options: CurriculumConfig) -> np.ndarray:
    """Passes over prompts whose last groups were all equal, the likelier the more of them.

        chance = max(p^n, min_chance),  n = groups in a row with equal accuracies
        p <- p -+ 0.01 in [0.05, 0.95] after each round, down where more of its rows than the
             target were of that kind; one p for all-right groups, one for all-wrong, 0.5 at first

    Where accuracy is graded, an equal group counts as right above 0.5.
    Source: GRESO, "Act Only When It Pays: Efficient Reinforcement Learning for LLM Reasoning via
    Selective Rollouts" (2025); targets 8.3 % and 16.7 % of the rows.
    """
    del options
    base_R = np.where(history.last_R > 0.5, history.explore_easy, history.explore_hard)
    return base_R**history.equal_R


def vas(history: History, options: CurriculumConfig) -> np.ndarray:
    """Draws prompts by the variance of their reward when last sampled, some of them uniformly.

        q = (1 - u) w / sum w + u / R,  w = p (1 - p);  chance = q / max q

    p is the mean accuracy of the row's last responses, 1/2 before there are any: nothing is sampled
    for the estimate alone, where the paper samples 8 responses of every prompt anew at times.
    Source: VAS, "MMR1: Enhancing Multimodal Reasoning with Variance-Aware Sampling and Open
    Resources" (2025), as released: no diversity term, u = 1/2.
    """
    p_R = np.where(history.tried_R > 0, history.last_R, 0.5)
    weight_R = p_R * (1 - p_R)
    mean = weight_R.mean()
    share = options.uniform_share
    q_R = (1 - share) * weight_R / mean + share if mean > 0 else np.ones(len(p_R))
    # All weight on prompts that have none: whatever is left has the same chance.
    return q_R / q_R.max()


def cures(history: History, options: CurriculumConfig) -> np.ndarray:
    """Draws prompts by the spread of their posterior success rate.

        w = (k + 1) / (n + 2);  chance = exp((sqrt(w (1 - w)) - 1/2) / temperature)

    k of n responses were right, of all so far. In proportion this is the softmax of
    sqrt(w (1 - w)) / temperature.
    Source: CurES, "From Gradient Analysis to Efficient Curriculum Learning for Reasoning LLMs"
    (2025). Its code has the temperature (k + 1) / 0.01, which is all but uniform; here it is one
    number for all prompts. Its number of responses for each prompt is not here.
    """
    w_R = (history.right_R + 1) / (history.tried_R + 2)
    return np.exp((np.sqrt(w_R * (1 - w_R)) - 0.5) / options.temperature)


def unsolved(history: History, options: CurriculumConfig) -> np.ndarray:
    """Passes over prompts whose responses were all right when they were sampled last.

        chance = min_chance if they were, else 1

    Source: likely; SRPO, "A Cross-Domain Implementation of Large-Scale Reinforcement Learning on
    LLM" (2025), history resampling; RCS, "Improving Generalization in Intent Detection: GRPO with
    Reward-Based Curriculum Sampling" (2025), from its 60th step on.
    """
    solved_R = (history.tried_R > 0) & (history.last_R >= 1)
    return np.where(solved_R, options.min_chance, 1.0)


def chances(history: History, options: CurriculumConfig) -> np.ndarray:
    """The chance of every row to be drawn where it stands next, float64 [R] in [min_chance, 1].

    Raises:
      ValueError: unknown curriculum.
    """
    chance_R = lookup(CURRICULA, options.name, kind="curriculum")(history, options)
    return np.maximum(chance_R, options.min_chance)


def _moved(base: float, down: bool) -> float:
    return float(
        np.clip(base + (-EXPLORE_STEP if down else EXPLORE_STEP), EXPLORE_LOW, EXPLORE_HIGH)
    )


CURRICULA = {
    "uniform": uniform,
    "greso": greso,
    "vas": vas,
    "cures": cures,
    "unsolved": unsolved,
}
