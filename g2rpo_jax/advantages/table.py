"""ESTIMATORS: every advantage estimator by the name one types for `advantage.name`."""

from g2rpo_jax.advantages.centred import dr_grpo, gpg, rloo
from g2rpo_jax.advantages.group import Estimator, State
from g2rpo_jax.advantages.moving import (
    ema_grpo,
    ema_grpo_onethinker,
    fresh_moments,
    fresh_scale,
)
from g2rpo_jax.advantages.ranked import g2rpo, g2rpo_release, gaussian_gdpo
from g2rpo_jax.advantages.scaled import gdpo, grpo
from g2rpo_jax.advantages.settings import AdvantageConfig
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
    "g2rpo_release": Estimator(g2rpo_release),
    "gaussian_gdpo": Estimator(gaussian_gdpo),
    "grpo": Estimator(grpo),
    "dr_grpo": Estimator(dr_grpo),
    "ema_grpo": Estimator(ema_grpo, fresh_scale),
    "ema_grpo_onethinker": Estimator(ema_grpo_onethinker, fresh_moments),
    "gdpo": Estimator(gdpo),
    "rloo": Estimator(rloo),
    "gpg": Estimator(gpg),
}
