"""ESTIMATORS: every advantage estimator by the name one types for `advantage.name`."""

from g2rpo_jax.advantages.behaviour import edge_grpo, grpo_s, unlikeliness
from g2rpo_jax.advantages.centred import asymre, dr_grpo, gpg, grpo_passk, opo, rloo
from g2rpo_jax.advantages.group import Estimator, State
from g2rpo_jax.advantages.memory import BetaTracker, RewardHistory, dcpo_smooth, single_stream
from g2rpo_jax.advantages.moving import (
    ema_grpo,
    ema_grpo_onethinker,
    fresh_moments,
    fresh_scale,
)
from g2rpo_jax.advantages.ranked import (
    g2rpo,
    g2rpo_release,
    g2rpo_task,
    gaussian_gdpo,
    win_rate,
)
from g2rpo_jax.advantages.risk import TrackedQuantiles, risk_po
from g2rpo_jax.advantages.scaled import gdpo, grpo, lite_ppo, ngrpo, reinforce_pp_baseline
from g2rpo_jax.advantages.settings import AdvantageConfig
from g2rpo_jax.advantages.success import (
    bnpo,
    grpo_lead,
    mapo,
    maxrl,
    noise_aware,
    raft,
    reinforce_rej,
)
from g2rpo_jax.advantages.verifier import verifier_backward, verifier_forward
from g2rpo_jax.tables import lookup


def init_state(options: AdvantageConfig, num_tasks: int, num_rows: int = 0) -> State:
    """The state that the estimator starts from: a pytree to carry and checkpoint; () for most.

    Args:
      options: its name is the estimator's.
      num_tasks: K, the tasks that `Group.task_P` counts.
      num_rows: the training rows that `Group.row_P` counts.
    Raises:
      ValueError: no estimator has that name.
    """
    return lookup(ESTIMATORS, options.name, kind="advantage estimator").init(num_tasks, num_rows)


ESTIMATORS = {
    "g2rpo": Estimator(g2rpo),
    "g2rpo_task": Estimator(g2rpo_task),
    "g2rpo_release": Estimator(g2rpo_release),
    "gaussian_gdpo": Estimator(gaussian_gdpo),
    "grpo": Estimator(grpo),
    "dr_grpo": Estimator(dr_grpo),
    "ema_grpo": Estimator(ema_grpo, fresh_scale),
    "ema_grpo_onethinker": Estimator(ema_grpo_onethinker, fresh_moments),
    "gdpo": Estimator(gdpo),
    "rloo": Estimator(rloo),
    "gpg": Estimator(gpg),
    "opo": Estimator(opo),
    "asymre": Estimator(asymre),
    "grpo_passk": Estimator(grpo_passk),
    "lite_ppo": Estimator(lite_ppo),
    "reinforce_pp_baseline": Estimator(reinforce_pp_baseline),
    "win_rate": Estimator(win_rate),
    "ngrpo": Estimator(ngrpo),
    "mapo": Estimator(mapo),
    "maxrl": Estimator(maxrl),
    "bnpo": Estimator(bnpo),
    "grpo_lead": Estimator(grpo_lead),
    "noise_aware": Estimator(noise_aware),
    "raft": Estimator(raft),
    "reinforce_rej": Estimator(reinforce_rej),
    "verifier_backward": Estimator(verifier_backward),
    "verifier_forward": Estimator(verifier_forward),
    "edge_grpo": Estimator(edge_grpo),
    "unlikeliness": Estimator(unlikeliness),
    "grpo_s": Estimator(grpo_s),
    "single_stream": Estimator(single_stream, BetaTracker.fresh, by_row=True),
    "dcpo_smooth": Estimator(dcpo_smooth, RewardHistory.fresh, by_row=True),
    "risk_po": Estimator(risk_po, TrackedQuantiles.fresh),
}
