"""Used response tokens of several rows on one axis, without the padding of short responses.

Layers and head work on a pack of R rows: their R * S prompt tokens and L places for what is used of
their R * G * U fed response tokens (U = T - 1). Attention alone sees responses as [P, G, U].
Moving between the two is a gather one way and a gather back, in the backward pass as well: nothing
is scattered. Letters: B packs of R = P / B rows, row p in pack p // R; M = R * G * U.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from g2rpo_jax.parallel.constrain import constrain


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Packing:
    """Which fed response token stands at which place of its pack; int32 throughout.

    At least the last place is padding. Padding of the two sides points at one another: its gradient
    is zero on both, so that the gathers undo each other without a mask.
    Attributes:
      token_BL: the tokens that are fed.
      position_BL: where they stand in their row, behind the prompt (M-RoPE).
      label_BL: the tokens behind them, which they predict.
      slot_BL: which of the pack's M they are.
      label_slot_BL: which of the pack's R * G * T response tokens their label is.
      place_BM: the other way: the place of each; L - 1 where it is not used.
    """

    token_BL: jax.Array
    position_BL: jax.Array
    label_BL: jax.Array
    slot_BL: jax.Array
    label_slot_BL: jax.Array
    place_BM: jax.Array

    def pack(self, x_BM: jax.Array) -> jax.Array:
        """[B, M, ...] -> [B, L, ...]"""
        return _move(x_BM, self.slot_BL, self.place_BM)

    def unpack(self, x_BL: jax.Array) -> jax.Array:
        """[B, L, ...] -> [B, M, ...]; anything finite where nothing is used."""
        return _move(x_BL, self.place_BM, self.slot_BL)

    def labels(self, response_PGT: jax.Array) -> jax.Array:
        """What is predicted: the first token of every response of a pack, then `label_BL`."""
        B = len(self.label_BL)
        return jnp.concatenate([response_PGT[:, :, 0].reshape(B, -1), self.label_BL], axis=1)

    def predictions(self, x_BQC: jax.Array, shape: tuple[int, int, int]) -> jax.Array:
        """Numbers of every label (`labels`), [B, R * G + L, C] -> [P, G, T, C]; 0 where unused."""
        (P, G, T), (B, L) = shape, self.label_BL.shape
        first = P // B * G
        first_F = jnp.arange(first, dtype=jnp.int32)
        place_BFU = first + self.place_BM.reshape(B, first, T - 1)
        place_BFT = jnp.concatenate(
            [jnp.broadcast_to(first_F[None, :, None], (B, first, 1)), place_BFU], axis=2
        )
        back_BQ = jnp.concatenate(
            [jnp.broadcast_to(T * first_F[None], (B, first)), self.label_slot_BL], axis=1
        )
        place_BN = place_BFT.reshape(B, first * T)
        x_BNC = _move(x_BQC, place_BN, back_BQ)
        used_BN1 = (place_BN < first + L - 1)[..., None]
        return jnp.where(used_BN1, x_BNC, 0).reshape(P, G, T, -1)


def fed(length_PG: np.ndarray) -> np.ndarray:
    """Tokens that are fed of responses of these lengths: all but the last."""
    return np.maximum(length_PG, 1) - 1


def by_pack(P: int, shards: int, parts: int) -> np.ndarray:
    """The rows of every pack of a minibatch, [B, R].

    A minibatch of P rows lies in equal blocks on the row shards, and micro-batch i takes the rows
    i, i + parts, ... (`policy_step.over_parts`). What a shard has of a micro-batch is one pack, and
    packs are cut into micro-batches as rows are.
    """
    return np.arange(P).reshape(shards, -1, parts).swapaxes(1, 2).reshape(shards * parts, -1)


def layout(
    response_PGT: np.ndarray,
    length_PG: np.ndarray,
    next_position_P: np.ndarray,
    shards: int,
    parts: int,
    places: int,
) -> Packing:
    """The packing of a minibatch, on the host.

    Args:
      response_PGT: int32 tokens.
      length_PG: how many of them are used, from the first on.
      next_position_P: RowInputs.next_position_P.
      shards, parts: see `by_pack`; B = shards x parts.
      places: L, below M and above what is fed of any pack.
    Raises:
      ValueError: a pack does not fit.
    """
    (P, G, T), B, L = response_PGT.shape, shards * parts, places
    U, F = T - 1, P // B * G
    rows_BR = by_pack(P, shards, parts)
    token_BFT = response_PGT[rows_BR].reshape(B, F, T)
    fed_BF = fed(length_PG)[rows_BR].reshape(B, F)
    most = fed_BF.sum(1).max()
    if not most < L < F * U:
        raise ValueError(f"{most} response tokens of a pack in {L} places of {F * U} slots")
    position_BF = np.repeat(next_position_P[rows_BR], G, axis=1)
    which_BL = np.zeros((B, L), np.int32)
    offset_BL = np.zeros((B, L), np.int32)
    place_BFU = np.full((B, F, U), L - 1, np.int32)
    for b, fed_F in enumerate(fed_BF):
        used_FU = np.arange(U)[None] < fed_F[:, None]
        count = used_FU.sum()
        which_BL[b, :count], offset_BL[b, :count] = np.nonzero(used_FU)
        # Padding: the last token of the shortest response, which is not used.
        which_BL[b, count:], offset_BL[b, count:] = fed_F.argmin(), U - 1
        place_BFU[b][used_FU] = np.arange(count)
    pack_B1 = np.arange(B)[:, None]
    made = Packing(
        token_BL=token_BFT[pack_B1, which_BL, offset_BL],
        position_BL=position_BF[pack_B1, which_BL] + offset_BL,
        label_BL=token_BFT[pack_B1, which_BL, offset_BL + 1],
        slot_BL=which_BL * U + offset_BL,
        label_slot_BL=which_BL * T + offset_BL + 1,
        place_BM=place_BFU.reshape(B, F * U),
    )
    return jax.tree.map(lambda x: x.astype(np.int32), made)


def _move(x_BN: jax.Array, index_BM: jax.Array, back_BN: jax.Array) -> jax.Array:
    """x [B, N, ...] at `index`, [B, M, ...]; `back` is the way of the gradient."""
    return _moved(x_BN, index_BM, back_BN)  # the one place that backward passes are known by


@jax.custom_vjp
def _moved(x_BN: jax.Array, index_BM: jax.Array, back_BN: jax.Array) -> jax.Array:
    return _gather(x_BN, index_BM)


def _forward(x_BN, index_BM, back_BN):
    return _gather(x_BN, index_BM), back_BN


def _backward(back_BN, grad_BM):
    return _gather(grad_BM, back_BN), None, None


_moved.defvjp(_forward, _backward)


def _gather(x_BN: jax.Array, index_BM: jax.Array) -> jax.Array:
    B, N, *rest = x_BN.shape
    # Whole tokens, each pack on its device; features stay divided as heads are.
    x_BNA = constrain(x_BN.reshape(B, N, -1), "rows", None, "heads")
    index_BM = jnp.minimum(jnp.maximum(index_BM, 0), N - 1)
    out_BMA = constrain(jax.vmap(_take)(x_BNA, index_BM), "rows", None, "heads")
    return out_BMA.reshape(B, -1, *rest)


def _take(x_NA: jax.Array, index_M: jax.Array) -> jax.Array:
    return x_NA.at[index_M].get(mode="promise_in_bounds", wrap_negative_indices=False)
