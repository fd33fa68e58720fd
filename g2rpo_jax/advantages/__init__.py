"""Advantage estimators: rewards of prompt groups [P, G] -> advantages [P, G].

Every entry of ESTIMATORS is `(group, state, options) -> (adv_PG, state)`, pure and jit-able with
static options. For all of them: a response that is not valid, or whose prompt's task id lies
outside 0..num_tasks-1 (padding), gets exactly 0 and moves nobody; a task id that never occurs
changes nothing; a group of equal rewards is centred to exact zeros, unless the entry says
otherwise. `compute` is the same for notebooks: NumPy or JAX arrays in, arguments checked.

Nothing here sorts, gathers or scatters, save the reference form `ranks="erfinv"` (`ranks.py`).
"""

from g2rpo_jax.advantages.group import Estimator, Group, State, valid_responses
from g2rpo_jax.advantages.moving import TaskMoments, TaskScale
from g2rpo_jax.advantages.notebook import compute
from g2rpo_jax.advantages.settings import AdvantageConfig
from g2rpo_jax.advantages.table import ESTIMATORS, init_state

__all__ = [
    "ESTIMATORS",
    "AdvantageConfig",
    "Estimator",
    "Group",
    "State",
    "TaskMoments",
    "TaskScale",
    "compute",
    "init_state",
    "valid_responses",
]
