"""Keys and values of rows that are being decoded; a prompt's stand once per row.

`Cache` goes from program to program. Inside one, `Apart` holds every layer's arrays as attention
reads them: a token is then written in place and nothing is copied, where a scan over layers copies
a layer's share out of the stack for every token.
"""

import dataclasses

import jax
import jax.numpy as jnp

from g2rpo_jax.parallel import constrain

Pair = tuple[jax.Array, jax.Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cache:
    """Of n layers, stacked."""

    prompt_key_nPKHS: jax.Array
    prompt_value_nPKSH: jax.Array
    key_nPGKHT: jax.Array
    value_nPGKTH: jax.Array

    @staticmethod
    def begin(key_nPKHS: jax.Array, value_nPKSH: jax.Array, G: int, T: int) -> "Cache":
        """Prompts, and room for G responses of T tokens to each."""
        n, P, K, H, _ = key_nPKHS.shape
        return Cache(
            constrain.constrain(key_nPKHS, None, "rows", "heads"),
            constrain.constrain(value_nPKSH, None, "rows", "heads"),
            own(jnp.zeros((n, P, G, K, H, T), key_nPKHS.dtype)),
            own(jnp.zeros((n, P, G, K, T, H), value_nPKSH.dtype)),
        )

    def prompt(self, index: jax.Array) -> Pair:
        """Keys [P, K, H, S] and values [P, K, S, H] of a layer's prompts."""
        return _at(self.prompt_key_nPKHS, index), _at(self.prompt_value_nPKSH, index)

    def own(self, index: jax.Array) -> Pair:
        """Keys [P * G, K, H, T] and values [P * G, K, T, H] of a layer's responses."""
        return tuple(_join(_at(x, index)) for x in (self.key_nPGKHT, self.value_nPGKTH))

    def put(self, index: jax.Array, k_PGKH: jax.Array, v_PGKH: jax.Array, t: jax.Array) -> "Cache":
        """The cache with response token t of a layer in it."""
        key, value, at = self.key_nPGKHT, self.value_nPGKTH, (index, 0, 0, 0)
        k, v = k_PGKH.astype(key.dtype)[None, ..., None], v_PGKH.astype(value.dtype)[None]
        return dataclasses.replace(
            self,
            key_nPGKHT=own(jax.lax.dynamic_update_slice(key, k, (*at, 0, t))),
            value_nPGKTH=own(jax.lax.dynamic_update_slice(value, v[..., None, :], (*at, t, 0))),
        )

    def apart(self) -> "Apart":
        """The same, layer by layer."""

        def layers(x: jax.Array) -> tuple[jax.Array, ...]:
            return tuple(x[i] for i in range(x.shape[0]))

        return Apart(
            layers(self.prompt_key_nPKHS),
            layers(self.prompt_value_nPKSH),
            tuple(_join(x) for x in layers(self.key_nPGKHT)),
            tuple(_join(x) for x in layers(self.value_nPGKTH)),
        )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Apart:
    """Of n layers, one by one; B = P * G responses."""

    prompt_key_PKHS: tuple[jax.Array, ...]
    prompt_value_PKSH: tuple[jax.Array, ...]
    key_BKHT: tuple[jax.Array, ...]
    value_BKTH: tuple[jax.Array, ...]

    def prompt(self, index: int) -> Pair:
        """As Cache's."""
        return self.prompt_key_PKHS[index], self.prompt_value_PKSH[index]

    def own(self, index: int) -> Pair:
        """As Cache's."""
        return self.key_BKHT[index], self.value_BKTH[index]

    def put(self, index: int, k_PGKH: jax.Array, v_PGKH: jax.Array, t: jax.Array) -> "Apart":
        """As Cache's."""
        key, value = self.own(index)
        k, v = (_join(x).astype(key.dtype) for x in (k_PGKH, v_PGKH))
        key = jax.lax.dynamic_update_slice(key, k[..., None], (0, 0, 0, t))
        value = jax.lax.dynamic_update_slice(value, v[..., None, :], (0, 0, t, 0))
        return dataclasses.replace(
            self,
            key_BKHT=(*self.key_BKHT[:index], key, *self.key_BKHT[index + 1 :]),
            value_BKTH=(*self.value_BKTH[:index], value, *self.value_BKTH[index + 1 :]),
        )

    def together(self, like: Cache) -> Cache:
        """Stacked again; the prompts' part is `like`'s, from which this was taken apart."""
        key = jnp.stack(self.key_BKHT).reshape(like.key_nPGKHT.shape)
        value = jnp.stack(self.value_BKTH).reshape(like.value_nPGKTH.shape)
        return dataclasses.replace(like, key_nPGKHT=own(key), value_nPGKTH=own(value))


def own(cache_nPGK: jax.Array) -> jax.Array:
    """The responses' part of a cache, divided over devices."""
    return constrain.constrain(cache_nPGK, None, "rows", None, "heads")


def _at(x: jax.Array, index: jax.Array) -> jax.Array:
    return jax.lax.dynamic_index_in_dim(x, index, keepdims=False)


def _join(x_PG: jax.Array) -> jax.Array:
    """[P, G, ...] -> [P * G, ...]"""
    return x_PG.reshape(-1, *x_PG.shape[2:])
