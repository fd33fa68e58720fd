"""Ranks to normal quantiles: what G2RPO puts in place of a reward (OpenVLThinkerV2, eqs. 5-8, 13).

`group_rank` and `task_rank` count comparisons: nothing sorts, gathers or scatters, and equal ranks
give equal bits, so that ties of a first stage are ties of a second. `optimal_transport` is the
paper's algorithm written out, the reference for both; RANKS holds the two forms.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.scipy.special import erfinv, ndtri
from jaxtyping import Array, Bool, Float, Int

from g2rpo_jax import masked

PG = Float[Array, "P G"]
Valid = Bool[Array, "P G"]

COMPARISONS_AT_ONCE = 2**22  # bounds the memory of ranking a whole batch: 16 MiB in float32


def quantiles(
    count_R: Float[Array, " R"], size: int, unit_variance: bool = False
) -> Float[Array, "R N"]:
    """Normal quantiles q_k = sqrt(2) erfinv(2 (k - 0.5) / n - 1), k = 1..size; one row per n.

    Where k > n they are 0. unit_variance divides a row by its root mean square.
    By `ndtri` of the smaller tail: erfinv's argument 1 - 2/n keeps only log2(2^24 / n) bits of it
    in float32. Rows are antisymmetric to the bit, q_k = -q_(n+1-k).
    """
    n_R1 = count_R[:, None]
    k_1N = jnp.arange(1, size + 1, dtype=jnp.float32)[None, :]
    tail_RN = jnp.minimum(k_1N, n_R1 + 1 - k_1N)
    inside_RN = k_1N <= n_R1
    p_RN = jnp.where(inside_RN, (tail_RN - 0.5) / jnp.maximum(n_R1, 1.0), 0.5)
    lower_RN = ndtri(p_RN)
    q_RN = jnp.where(inside_RN, jnp.where(k_1N > tail_RN, -lower_RN, lower_RN), 0.0)
    if not unit_variance:
        return q_RN
    mean_square_R1 = masked.mean(jnp.square(q_RN), inside_RN, axis=1, keepdims=True)
    return q_RN / jnp.sqrt(jnp.where(mean_square_R1 > 0, mean_square_R1, 1.0))


def _tie_mean(below: Array, upto: Array, count: Array, q: Array) -> Array:
    """Mean of q_k over below < k <= upto, the ranks that the equal values share.

    A function of (count, below, upto) alone, to the bit: the sum runs over k in the same order for
    every element. Mirror ranks give mirror values and the middle exactly 0, because both are
    reduced to the lower half first.
    """
    upper = below + upto > count
    first = jnp.where(upper, count - upto, below)
    last = jnp.where(upper, count - below, upto)
    k = jnp.arange(1, q.shape[-1] + 1, dtype=jnp.float32)[(None,) * (q.ndim - 1)]
    shared = (k > first[..., None]) & (k <= last[..., None])
    average = jnp.sum(jnp.where(shared, q, 0.0), axis=-1) / jnp.maximum(last - first, 1.0)
    return jnp.where(below + upto == count, 0.0, jnp.where(upper, -average, average))


def group_rank(reward_PG: PG, valid_PG: Valid, unit_variance: bool = False) -> PG:
    """Standard-normal quantile of each reward's rank within its prompt's group, ties averaged.

    With n valid responses, `below` of them lower and `upto` lower or equal, a response gets the
    mean of q_k(n) over below < k <= upto. Equal (n, below, upto) give identical bits, in this group
    or another.

    Args:
      reward_PG: float32, higher is better; any value where not valid.
      valid_PG: False for responses that get 0 and move nobody's rank.
      unit_variance: divide by the root mean square of q(n).
    Returns:
      float32 [P, G]; each group sums to 0 up to rounding; exactly 0 where n <= 1 or all tie.
    Source: OpenVLThinkerV2 eqs. 5-8 and 13, by rank counts instead of a sort.
    """
    size = reward_PG.shape[1]
    reward_PG = jnp.where(valid_PG, reward_PG, 0.0)
    mine_PG1, other_P1G, peer_P1G = reward_PG[:, :, None], reward_PG[:, None, :], valid_PG[:, None]
    below_PG = _count((other_P1G < mine_PG1) & peer_P1G)
    upto_PG = _count((other_P1G <= mine_PG1) & peer_P1G)
    count_P1 = masked.count(valid_PG, axis=1, keepdims=True)
    # Each row of quantiles is computed once and picked by select-and-sum, so groups share its bits.
    counts_N = jnp.arange(size + 1, dtype=jnp.float32)
    table_NG = quantiles(counts_N, size, unit_variance)
    pick_PN1 = (count_P1 == counts_N[None, :])[:, :, None]
    q_PG = jnp.sum(jnp.where(pick_PN1, table_NG[None], 0.0), axis=1)
    rank_PG = _tie_mean(below_PG, upto_PG, count_P1, q_PG[:, None, :])
    return jnp.where(valid_PG, rank_PG, 0.0)


def task_rank(
    value_PG: PG,
    valid_PG: Valid,
    task_P: Int[Array, " P"],
    num_tasks: int,
    unit_variance: bool = False,
) -> PG:
    """`group_rank` among all valid responses of the task in the batch, instead of the prompt's.

    Costs (P G)^2 comparisons, COMPARISONS_AT_ONCE at a time. One valid response alone gets 0.
    Source: the second stage of the authors' release (`gs_grpo`); not in the paper.
    """
    prompts, responses = value_PG.shape
    number = prompts * responses
    task_PG = jnp.broadcast_to(task_P[:, None], value_PG.shape)
    value_N = jnp.where(valid_PG, value_PG, 0.0).reshape(number)
    task_N = jnp.where(valid_PG, task_PG, -1).reshape(number)  # ids >= 0 are valid responses
    here_KN = task_N[None, :] == jnp.arange(num_tasks, dtype=jnp.int32)[:, None]
    count_K = masked.count(here_KN, axis=1)
    table_KN = quantiles(count_K, number, unit_variance)

    def rank(block: tuple[Array, Array]) -> Array:
        value_B, task_B = block
        peer_BN = (task_N[None, :] == task_B[:, None]) & (task_B[:, None] >= 0)
        below_B = _count((value_N[None, :] < value_B[:, None]) & peer_BN)
        upto_B = _count((value_N[None, :] <= value_B[:, None]) & peer_BN)
        q_BN = jnp.zeros((value_B.shape[0], number), jnp.float32)
        size_B = jnp.zeros(value_B.shape, jnp.float32)
        for task in range(num_tasks):
            q_BN = jnp.where((task_B == task)[:, None], table_KN[task][None, :], q_BN)
            size_B = jnp.where(task_B == task, count_K[task], size_B)
        return _tie_mean(below_B, upto_B, size_B, q_BN)

    rows = max(1, min(number, COMPARISONS_AT_ONCE // max(number, 1)))
    blocks = -(-number // rows)
    spare = blocks * rows - number
    value_CB = jnp.pad(value_N, (0, spare)).reshape(blocks, rows)
    task_CB = jnp.pad(task_N, (0, spare), constant_values=-1).reshape(blocks, rows)
    rank_CB = jax.lax.map(rank, (value_CB, task_CB))
    rank_N = rank_CB.reshape(blocks * rows)[:number]
    return jnp.where(valid_PG, rank_N.reshape(prompts, responses), 0.0)


def optimal_transport(
    value_N: Float[Array, " N"], valid_N: Bool[Array, " N"], unit_variance: bool = False
) -> Float[Array, " N"]:
    """The paper's Algorithm 1 as written: sort, erfinv quantiles, mean over ties, put back.

    For reading and for comparison. It sorts and scatters, so Neuron refuses it; and where a device
    adds a segment in no fixed order (GPUs), equal ranks of different groups may differ in the last
    bit, which `group_rank` rules out.
    Source: OpenVLThinkerV2 eqs. 5-8, 13 and Algorithm 1.
    """
    size = value_N.shape[0]
    order_N = jnp.argsort(jnp.where(valid_N, value_N, jnp.inf))
    sorted_N = jnp.where(valid_N, value_N, jnp.inf)[order_N]
    k_N = jnp.arange(1, size + 1, dtype=jnp.float32)
    n = masked.count(valid_N)
    inside_N = k_N <= n
    x_N = jnp.where(inside_N, 2.0 * (k_N - 0.5) / jnp.maximum(n, 1.0) - 1.0, 0.0)
    q_N = jnp.sqrt(2.0) * erfinv(x_N)
    if unit_variance:
        mean_square = masked.mean(jnp.square(q_N), inside_N)
        q_N = q_N / jnp.sqrt(jnp.where(mean_square > 0, mean_square, 1.0))
    starts_N = jnp.concatenate([jnp.zeros(1, bool), sorted_N[1:] != sorted_N[:-1]])
    tie_N = jnp.cumsum(starts_N.astype(jnp.int32))
    sum_N = jax.ops.segment_sum(jnp.where(inside_N, q_N, 0.0), tie_N, size)
    ties_N = jax.ops.segment_sum(inside_N.astype(jnp.float32), tie_N, size)
    mean_N = (sum_N / jnp.maximum(ties_N, 1.0))[tie_N]
    all_tied = jnp.sum(jnp.where(inside_N & starts_N, 1.0, 0.0)) == 0
    mean_N = jnp.where(inside_N & ~all_tied, mean_N, 0.0)
    return jnp.zeros(size, jnp.float32).at[order_N].set(mean_N)


def _group_transport(reward_PG: PG, valid_PG: Valid, unit_variance: bool = False) -> PG:
    return jax.vmap(optimal_transport, in_axes=(0, 0, None))(reward_PG, valid_PG, unit_variance)


def _task_transport(
    value_PG: PG,
    valid_PG: Valid,
    task_P: Int[Array, " P"],
    num_tasks: int,
    unit_variance: bool = False,
) -> PG:
    here_KP = task_P[None, :] == jnp.arange(num_tasks, dtype=jnp.int32)[:, None]
    here_KN = (here_KP[:, :, None] & valid_PG[None]).reshape(num_tasks, value_PG.size)
    in_tasks = jax.vmap(optimal_transport, in_axes=(None, 0, None))
    rank_KN = in_tasks(value_PG.reshape(value_PG.size), here_KN, unit_variance)
    return jnp.sum(rank_KN, axis=0).reshape(value_PG.shape)  # 0 in every task but its own


def _count(condition: Array) -> Array:
    return jnp.sum(condition.astype(jnp.float32), axis=-1)


@dataclasses.dataclass(frozen=True)
class Ranking:
    """An entry of RANKS: the quantiles of ranks within each prompt's group, and each task."""

    within_group: Callable[..., PG]
    within_task: Callable[..., PG]


RANKS = {
    "comparison": Ranking(group_rank, task_rank),
    "erfinv": Ranking(_group_transport, _task_transport),
}
