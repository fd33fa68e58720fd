"""`compute`: plain arrays in, arguments checked."""

import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from g2rpo_jax import advantages


def test_compute_takes_numpy_and_jax_arrays_and_carries_state():
    reward = np.random.default_rng(7).random((3, 5))
    extras = {"components": {"accuracy": reward}, "length_PG": np.full((3, 5), 9)}
    for name in ("g2rpo", "gdpo", "ema_grpo"):
        one, state = advantages.compute(name, reward, **extras)
        two, _ = advantages.compute(name, jnp.asarray(reward), **extras)
        assert one.dtype == jnp.float32
        assert_array_equal(one, two)
        advantages.compute(name, reward, state=state, **extras)


GOOD = np.zeros((2, 3))


@pytest.mark.parametrize(
    "args, kwargs, message",
    [
        (("g2rop", GOOD), {}, "unknown advantage estimator 'g2rop'; did you mean 'g2rpo'"),
        (("grpo", GOOD), {"ddoff": 0}, "unknown advantage option 'ddoff'; did you mean 'ddof'"),
        (("grpo", GOOD), {"ddof": 2}, r"advantage.ddof=2 lies outside \[0, 1\]"),
        (("g2rpo", GOOD), {"ranks": "sort"}, "unknown advantage.ranks 'sort'"),
        (("ema_grpo", GOOD), {"ema_decay": 1.5}, "advantage.ema_decay=1.5"),
        (("grpo", GOOD), {"eps": 0.0}, "advantage.eps=0.0"),
        (("grpo", np.zeros(3)), {}, r"shape \(3,\): one row per prompt"),
        (("grpo", GOOD), {"valid_PG": np.ones((3, 2), bool)}, r"valid_PG has shape \(3, 2\)"),
        (("grpo", GOOD), {"task_P": [0, 1, 2]}, r"task_P has shape \(3,\)"),
        (("grpo", GOOD * np.nan), {}, r"reward_PG\[0, 0\] is nan"),
        (("gdpo", GOOD), {"length_PG": GOOD}, "gdpo ranks or scales every reward component"),
        (("gaussian_gdpo", GOOD), {}, "pass components"),
        (("gdpo", GOOD), {"components": {"a": GOOD}}, "pass length_PG"),
        (("gdpo", GOOD), {"components": {"a": np.zeros(2)}}, r"components\['a'\] has shape"),
        (("grpo", GOOD), {"task_P": [0, 3], "num_tasks": 2}, "id 3, but there are 2 tasks"),
        (("ema_grpo", GOOD), {"state": ()}, "state is tuple, but ema_grpo carries TaskScale"),
    ],
)
def test_a_bad_argument_is_refused_by_name(args, kwargs, message):
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        advantages.compute(*args, **kwargs)


def test_a_state_of_another_size_is_refused():
    _, state = advantages.compute("ema_grpo", GOOD)
    with pytest.raises(ValueError, match="id 1, but there are 1 tasks"):
        advantages.compute("ema_grpo", GOOD, task_P=[0, 1], state=state)
    with pytest.raises(ValueError, match="num_tasks=2, but the state was made for 1"):
        advantages.compute("ema_grpo", GOOD, state=state, num_tasks=2)
