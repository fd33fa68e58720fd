"""Which sampled rows carry signal: the criteria of dynamic filtering."""

import numpy as np


def mean_accuracy(accuracy_G: np.ndarray, reward_G: np.ndarray, low: float, high: float) -> bool:
    """Keeps rows whose mean raw accuracy lies between two bounds.

        low < mean_i accuracy_i < high

    Rows that are all right or all wrong go: that is the filter of Reinforce-Rej too. With low below
    0 only what is solved goes. Shaping is not looked at: a length reward would make rows look
    informative that are all wrong.
    Source: EasyR1's online filtering, which OpenVLThinkerV2's release uses (2025); Reinforce-Rej,
    "A Minimalist Approach to LLM Reasoning: from Rejection Sampling to Reinforce" (2025).
    """
    del reward_G
    return bool(low < float(accuracy_G.mean()) < high)


def accuracy_spread(accuracy_G: np.ndarray, reward_G: np.ndarray, low: float, high: float) -> bool:
    """Keeps rows whose raw accuracies are not all equal.

        std_i accuracy_i > 0

    Differs from mean_accuracy where accuracy is graded: a row of equal halves goes.
    Source: DAPO, "An Open-Source LLM Reinforcement Learning System at Scale" (2025), dynamic
    sampling as in verl.
    """
    del reward_G, low, high
    return bool(np.ptp(accuracy_G) > 0)


def reward_spread(accuracy_G: np.ndarray, reward_G: np.ndarray, low: float, high: float) -> bool:
    """Keeps rows whose rewards, format and shaping included, are not all equal.

        std_i R_i > 0

    Source: GPG, "A Simple and Strong Reinforcement Learning Baseline for Model Reasoning" (2025):
    rewards that are all equal give no gradient.
    """
    del accuracy_G, low, high
    return bool(np.ptp(reward_G) > 0)


CRITERIA = {
    "mean_accuracy": mean_accuracy,
    "accuracy_spread": accuracy_spread,
    "reward_spread": reward_spread,
}
