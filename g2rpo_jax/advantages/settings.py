"""Which estimator, and every number that one of them reads."""

import dataclasses

import numpy as np

from g2rpo_jax.ranks import RANKS
from g2rpo_jax.tables import lookup


@dataclasses.dataclass(frozen=True)
class AdvantageConfig:
    """Which estimator, and every number that one of them reads.

    Attributes:
      name: entry of ESTIMATORS.
      ranks: entry of RANKS: how g2rpo, g2rpo_task, g2rpo_release and gaussian_gdpo rank.
      unit_variance: divide the quantiles of n values by their root mean square (their variance is
        0.851 for n = 8), so that untied values have variance 1. Acts on the last ranking stage.
      ddof: 1 for the sample standard deviation (EasyR1, verl, TRL), 0 for the population's (the
        paper's Figure 2).
      eps: added to a standard deviation before dividing by it.
      ema_decay: share of the old moving average that a batch keeps.
      ema_floor: least task standard deviation of ema_grpo_onethinker.
      ema_guard: beyond this |advantage| a group of ema_grpo_onethinker uses its own standard
        deviation.
      whitening: tokens (the release, verl) or responses (TRL): what the batch statistics of gdpo
        and reinforce_pp_baseline count.
      gpg_scale: none (F_norm = 1) or std, of gpg.
      passk_scale: std (verl's default) or none, of grpo_passk.
      asymre_shift: what asymre adds to the prompt's mean to make its baseline.
      ngrpo_best: reward of the imagined response that ngrpo adds to every group.
      success: least accuracy of a right response, for mapo, grpo_lead, noise_aware, raft,
        reinforce_rej, verifier_forward and grpo_s: the accuracy component's where there is one,
        else the reward's.
      lead_low, lead_span, lead_slope, lead_middle: the logistic weight of grpo_lead: its least
        value, what it rises by, how steeply, and at which share of right responses.
      flip_rate: chance that noise_aware allows for a label to be the wrong way round.
      false_positive: chance that the verifier says right of a wrong response: one for all tasks, or
        one for each in the order of their names (verifier_backward).
      false_negative: that it says wrong of a right one (verifier_backward, verifier_forward).
      unlikeliness: share of its reward that the likeliest response of a group loses, about
        (unlikeliness).
      entropy_floor: least entropy of a response, nats, that edge_grpo and grpo_s divide by.
      entropy_share: what grpo_s adds to a reward of +-1, on average.
      entropy_scope: group (right and wrong responses together) or sets (apart): what grpo_s takes
        its z-score over.
      tracker_decay: share of a row's pseudo counts that a visit keeps (single_stream).
      risk_bundle: prompts of one bundle (risk_po, as all that follow).
      risk_low, risk_high: levels of the two quantiles.
      risk_mix: weight of the lower tail beside the middle's.
      risk_rate: step of the tracked quantiles, in units of reward.
      risk_baseline: subtract the distance of the quantiles, so that no advantage is above 0.
      risk_credit: what a response gets of its paper's advantage: uniform (all of it), score (half
        where it has a reward, one and a half times where not), std (over the standard deviation of
        the prompt's rewards) or sum_mean (its share of the deviations from the prompts' means,
        which explodes where they cancel).
    """

    name: str = "g2rpo"
    ranks: str = "comparison"
    unit_variance: bool = False
    ddof: int = 1
    eps: float = 1e-6
    ema_decay: float = 0.99
    ema_floor: float = 1e-3
    ema_guard: float = 5.0
    whitening: str = "tokens"
    gpg_scale: str = "none"
    passk_scale: str = "std"
    asymre_shift: float = -0.1
    ngrpo_best: float = 1.0
    success: float = 0.5
    lead_low: float = 0.4
    lead_span: float = 1.1
    lead_slope: float = 10.0
    lead_middle: float = 0.75
    flip_rate: float = 0.1
    false_positive: tuple[float, ...] = (0.1,)
    false_negative: tuple[float, ...] = (0.1,)
    unlikeliness: float = 0.25
    entropy_floor: float = 0.01
    entropy_share: float = 0.1
    entropy_scope: str = "group"
    tracker_decay: float = 0.875
    risk_bundle: int = 5
    risk_low: float = 0.2
    risk_high: float = 0.8
    risk_mix: float = 1.5
    risk_rate: float = 0.1
    risk_baseline: bool = True
    risk_credit: str = "uniform"

    def __post_init__(self):
        for field, choices in CHOICES.items():
            lookup(dict.fromkeys(choices), getattr(self, field), kind=f"advantage.{field}")
        for field, (low, high) in RANGES.items():
            value = getattr(self, field)
            if not all(low <= v <= high for v in np.atleast_1d(value)):
                raise ValueError(
                    f"advantage.{field}={value} lies outside [{low}, {high}]: use a value inside"
                )


# What the fields may hold. Names of estimators are looked up where the table is.
CHOICES = {
    "ranks": tuple(RANKS),
    "whitening": ("tokens", "responses"),
    "gpg_scale": ("none", "std"),
    "passk_scale": ("none", "std"),
    "entropy_scope": ("group", "sets"),
    "risk_credit": ("uniform", "score", "std", "sum_mean"),
}

RANGES = {
    "ddof": (0, 1),
    "eps": (1e-12, 1.0),
    "ema_decay": (0.0, 1.0),
    "ema_floor": (1e-6, 1.0),
    "ema_guard": (0.0, 1e6),
    "asymre_shift": (-10.0, 10.0),
    "ngrpo_best": (-10.0, 10.0),
    "success": (0.0, 1.0),
    "lead_low": (0.0, 10.0),
    "lead_span": (0.0, 10.0),
    "lead_slope": (0.0, 50.0),
    "lead_middle": (0.0, 1.0),
    # Below a half: at it, what the verifier says no longer depends on what is true.
    "flip_rate": (0.0, 0.45),
    "false_positive": (0.0, 0.45),
    "false_negative": (0.0, 0.45),
    "unlikeliness": (0.0, 1.0),
    "entropy_floor": (1e-6, 10.0),
    "entropy_share": (0.0, 10.0),
    "tracker_decay": (0.0, 1.0),
    "risk_bundle": (1, 1024),
    "risk_low": (0.01, 0.49),
    "risk_high": (0.5, 0.99),
    "risk_mix": (0.0, 100.0),
    "risk_rate": (0.0, 10.0),
}
