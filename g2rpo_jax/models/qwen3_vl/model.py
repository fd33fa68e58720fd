"""Qwen3-VL for rows: one prompt with its images, and G responses to it.

All methods are pure and may be jitted with the module split: `nnx.split` outside, `nnx.merge`
inside.
Numbers: matrix products in `dtype`, summed in float32; norms, softmax and logits in float32.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from g2rpo_jax.models.layers import apart, over_layers
from g2rpo_jax.models.logprobs import SHARDS
from g2rpo_jax.models.qwen3_vl import rope, text
from g2rpo_jax.models.qwen3_vl.cache import Apart, Cache
from g2rpo_jax.models.qwen3_vl.config import Qwen3VLConfig
from g2rpo_jax.models.qwen3_vl.embedding import embed
from g2rpo_jax.models.qwen3_vl.layout import RowInputs
from g2rpo_jax.models.qwen3_vl.packing import Packing
from g2rpo_jax.models.qwen3_vl.row_attention import (
    decode_attention,
    features_first,
    heads_first,
    prompt_attention,
    response_attention,
)
from g2rpo_jax.models.qwen3_vl.vision import VisionTower
from g2rpo_jax.parallel import constrain
from g2rpo_jax.tables import lookup


class Ready(NamedTuple):
    """What decoding reads of the parameters: the table tokens are looked up in, the layers'
    weights, stacked or one by one."""

    table_VD: jax.Array
    weights: text.Weights | list[text.Weights]


class Qwen3VL(nnx.Module):
    """The complete image and text model.

    Args:
      config: its shape.
      rngs: seeds random weights, as transformers initialises them; not under jit. None: zeros, for
        `nnx.eval_shape`.
      dtype: of activations and matrix products.
      param_dtype: of the stored weights.
      embedding_gradient: "scatter", or "onehot" where a backend cannot scatter (`embedding.embed`).
      directory: where its tokenizer and processor files lie, to be copied when it is saved.
    Attributes:
      vocab: what the unembedding is divided over on several devices (`logprobs.SHARDS`).
      attention: kernel of the prompts' attention (`kernels.KERNELS`).
      unrolled: whether layers are written out instead of scanned (`models.layers`).
    """

    model_type = "qwen3_vl"

    def __init__(
        self,
        config: Qwen3VLConfig,
        rngs: nnx.Rngs | None,
        dtype: jnp.dtype = jnp.float32,
        param_dtype: jnp.dtype = jnp.float32,
        embedding_gradient: str = "scatter",
        directory: str | None = None,
    ):
        self.config = config
        self.dtype = jnp.dtype(dtype)
        self.embedding_gradient = embedding_gradient
        self.vocab, self.attention, self.unrolled = "tensor", "none", False
        self.directory = directory
        V, D = config.text.vocab_size, config.text.hidden_size
        param_dtype = jnp.dtype(param_dtype)
        normal = functools.partial(
            text.normal_param, rngs, config.text.initializer_range, param_dtype
        )
        self.embedding = normal(V, D)
        self.layers = text.TextLayers(config.text, rngs, param_dtype)
        self.norm = nnx.Param(jnp.ones((D,), param_dtype))
        self.head = None if config.tie_word_embeddings else normal(V, D)
        self.vision = VisionTower(config.vision, rngs, param_dtype)

    def row_hidden(
        self,
        inputs: RowInputs,
        response_PGT: jax.Array,
        remat: str = "none",
        packing: Packing | None = None,
    ) -> jax.Array:
        """The final hidden state that predicts each response token: [P, G, T, D].

        Index t = 0 comes from the prompt's last token, t >= 1 from response token t - 1. Prompt,
        images and responses pass through the layers as one axis of length S + G * (T - 1).
        Args:
          inputs: the prompts.
          response_PGT: int32 token ids, anything behind the end; the last one is not fed.
          remat: what a layer's backward pass keeps (`text.REMAT`): "none" recomputes nothing.
          packing: of the B packs that the rows are; only used tokens pass through the layers, and
            the result is [B, R * G + L, D], in the order of `Packing.labels`.
        """
        P, G, T = response_PGT.shape
        S, U = inputs.tokens_PS.shape[1], T - 1
        B = P if packing is None else len(packing.token_BL)
        prompts = P // B * S  # tokens of prompts in a pack; a row is a pack of one by itself
        config = self.config.text
        prompt_PSD, deepstack_KPSD = self._embed_prompt(inputs, remat)
        if packing is None:
            token_BL = response_PGT[:, :, :U].reshape(P, G * U)
            place_GU = jnp.broadcast_to(jnp.arange(U, dtype=jnp.int32)[None], (G, U))
            next_P1 = jnp.asarray(inputs.next_position_P)[:, None]
            position_BL = next_P1 + place_GU.reshape(1, G * U)
        else:
            token_BL, position_BL = packing.token_BL, packing.position_BL
        fed_BLD = self._embed_tokens(token_BL)
        angles = self._angles(inputs, position_BL)

        def rows(x_BL: jax.Array, *shape: int) -> jax.Array:
            return x_BL.reshape(P, *shape, *x_BL.shape[2:])

        def layer(x_BLD, w, deepstack_PSD):
            q, k, v = text.queries_keys_values(config, w, x_BLD, angles)
            mask_PS = jnp.asarray(inputs.mask_PS)
            prompt_q, prompt_k, prompt_v = (rows(a[:, :prompts], S) for a in (q, k, v))
            out_PSA = prompt_attention(prompt_q, prompt_k, prompt_v, mask_PS, self.attention)
            out_BLA = out_PSA.reshape(B, prompts, -1)
            if U:
                own = [a[:, prompts:] for a in (q, k, v)]
                if packing is not None:
                    own = [packing.unpack(a) for a in own]
                own = [rows(a, G, U) for a in own]
                key, value = features_first(prompt_k), heads_first(prompt_v)
                own_PUA = response_attention(*own, key, value, mask_PS)
                own_BMA = own_PUA.reshape(B, -1, own_PUA.shape[-1])
                own_BLA = own_BMA if packing is None else packing.pack(own_BMA)
                out_BLA = jnp.concatenate([out_BLA, own_BLA], axis=1)
            x_BLD = text.after_attention(config, w, x_BLD, out_BLA)
            if deepstack_PSD is not None:
                deepstack_BSD = deepstack_PSD.reshape(B, prompts, -1)
                behind = x_BLD.shape[1] - prompts
                x_BLD = x_BLD + jnp.pad(deepstack_BSD, ((0, 0), (0, behind), (0, 0)))
            return x_BLD, None

        prompt_BSD = prompt_PSD.reshape(B, prompts, -1)
        x_BLD = constrain.constrain(jnp.concatenate([prompt_BSD, fed_BLD], axis=1), "rows")
        x_BLD, _ = self._scan(layer, x_BLD, deepstack_KPSD, remat)
        x_BLD = constrain.constrain(x_BLD, "rows")
        first_PD = _last_token(rows(x_BLD[:, :prompts], S), inputs)
        first_PG1D = jnp.broadcast_to(first_PD[:, None, None], (P, G, 1, first_PD.shape[-1]))
        hidden_BLD = x_BLD[:, prompts:]
        if packing is not None:
            first_BFD = first_PG1D.reshape(B, -1, first_PD.shape[-1])
            return self._final(jnp.concatenate([first_BFD, hidden_BLD], axis=1))
        return self._final(jnp.concatenate([first_PG1D, rows(hidden_BLD, G, U)], axis=2))

    def prompt_hidden(self, inputs: RowInputs) -> jax.Array:
        """The final hidden state of every prompt token: [P, S, D]."""
        hidden_PSD, _ = self._prompt(inputs)
        return self._final(hidden_PSD)

    def prefill(self, inputs: RowInputs, responses: int, tokens: int) -> tuple[jax.Array, Cache]:
        """Runs the prompts once, before decoding.

        Args:
          inputs: the prompts.
          responses: G, responses to each prompt.
          tokens: T, room in the cache for each response.
        Returns:
          hidden_PD: final hidden state of the last prompt token: predicts response token 0.
          cache: for `decode`.
        """
        hidden_PSD, (key_nPKHS, value_nPKSH, _) = self._prompt(inputs)
        cache = Cache.begin(key_nPKHS, value_nPKSH, responses, tokens)
        return self._final(_last_token(hidden_PSD, inputs)), cache

    def decode(
        self,
        token_PG: jax.Array,
        t: jax.Array,
        cache: Cache,
        inputs: RowInputs,
        ready: Ready | None = None,
    ) -> tuple[jax.Array, Cache | Apart]:
        """Feeds response token t of every response.

        Args:
          token_PG: int32, the tokens.
          t: scalar int32, 0 <= t < T, the same for all: the place in the cache.
          cache: from `prefill` or the last `decode`; tokens before t must have been fed. Taken
            `apart` where `ready`'s layers are.
          inputs: the same as in `prefill`.
          ready: from `ready`, which spares every token moving weights; or None.
        Returns:
          hidden_PGD: predicts response token t + 1; and the cache with token t in it.
        """
        config = self.config.text
        P, G = token_PG.shape
        table_VD, weights = ready or (self.embedding[...], text.stacked(self.layers))
        x_PGD = embed(table_VD, token_PG, self.embedding_gradient).astype(self.dtype)
        mask_PS = jnp.asarray(inputs.mask_PS)
        position_P3G = jnp.broadcast_to((inputs.next_position_P + t)[:, None, None], (P, 3, G))
        angles = rope.mrope(config, position_P3G, self._wide)

        def layer(carry, xs):
            (x_PGD, cache), (w, index) = carry, xs
            w = text.in_use(config, w, self.dtype, self.layers.lora_scale)
            q, k, v = text.queries_keys_values(config, w, x_PGD, angles)
            cache = cache.put(index, k, v, t)
            out_BA = decode_attention(q, *cache.own(index), *cache.prompt(index), mask_PS, t)
            x_PGD = text.after_attention(config, w, x_PGD, out_BA.reshape(P, G, -1))
            return (x_PGD, cache), None

        carry = (x_PGD, cache)
        if isinstance(weights, list):
            for index, w in enumerate(weights):
                carry, _ = layer(carry, (w, index))
        else:
            index_n = jnp.arange(config.num_hidden_layers, dtype=jnp.int32)
            carry, _ = jax.lax.scan(layer, carry, (weights, index_n))
        x_PGD, cache = carry
        return self._final(x_PGD), cache

    def ready(self) -> Ready:
        """What every call of `decode` reads, for many calls."""
        weights = text.stacked(self.layers)
        table_VD = constrain.constrain(self.embedding[...], None, "lookup_width")
        return Ready(table_VD, apart(weights) if self.unrolled else weights)

    def unembedding(self, dtype: jnp.dtype | None = None) -> jax.Array:
        """The output table [V, D], divided as `vocab` says: the embedding itself when tied.

        Args:
          dtype: cast to it before it travels; None: as it is, so that its gradient is added up in
            its own.
        """
        name, table = ("embedding", self.embedding) if self.head is None else ("head", self.head)
        table_VD = table[...] if dtype is None else table[...].astype(dtype)
        return constrain.use(name, table_VD, SHARDS[self.vocab].vocab)

    def unembed(self, hidden: jax.Array) -> jax.Array:
        """Logits [..., V] of final hidden states [..., D], float32 (float64 for float64)."""
        flat = hidden.reshape(-1, hidden.shape[-1])
        table = self.unembedding(self.dtype)
        logits = jnp.einsum("nd,vd->nv", flat, table, preferred_element_type=self._wide)
        return logits.reshape(*hidden.shape[:-1], -1)

    def layer_outputs(self, inputs: RowInputs) -> tuple[jax.Array | None, jax.Array]:
        """For looking inside: outputs [depth, P, N, D] of the vision blocks (None if N = 0) and
        [n, P, S, D] of the language layers, DeepStack added, before the final norm."""
        has_images = inputs.segment_PN.shape[1] > 0
        blocks = self.vision(inputs, self.dtype, trace=True)[2] if has_images else None
        _, (_, _, outputs_nPSD) = self._prompt(inputs, trace=True)
        return blocks, outputs_nPSD

    @property
    def _wide(self) -> jnp.dtype:
        return jnp.promote_types(self.dtype, jnp.float32)

    def _prompt(self, inputs: RowInputs, trace: bool = False):
        """Prompts through all layers: the last output, and stacked (keys, values, outputs)."""
        config = self.config.text
        x_PSD, deepstack_KPSD = self._embed_prompt(inputs, "none")
        angles = self._angles(inputs, None)
        mask_PS = jnp.asarray(inputs.mask_PS)

        def layer(x_PSD, w, deepstack_PSD):
            q, k, v = text.queries_keys_values(config, w, x_PSD, angles)
            out_PSA = prompt_attention(q, k, v, mask_PS, self.attention)
            x_PSD = text.after_attention(config, w, x_PSD, out_PSA)
            if deepstack_PSD is not None:
                x_PSD = x_PSD + deepstack_PSD
            return x_PSD, (features_first(k), heads_first(v), x_PSD if trace else None)

        return self._scan(layer, x_PSD, deepstack_KPSD, "none")

    def _scan(self, layer, x, deepstack_KPSD: jax.Array | None, remat: str):
        """Scans `layer(x, weights, deepstack) -> (x, output)` over the language layers.

        Layer i < K adds DeepStack feature i, as a sum over all K with weights one or zero: one scan
        serves all layers, where cutting the stacked weights in two would copy them.
        """
        n = self.config.text.num_hidden_layers
        pick_nK = np.eye(n, len(self.config.vision.deepstack_visual_indexes))

        def body(x, xs):
            w, pick_K = xs
            x = constrain.constrain(x, "rows")
            w = text.in_use(self.config.text, w, self.dtype, self.layers.lora_scale)
            picked = None
            if deepstack_KPSD is not None:
                picked = (pick_K[:, None, None, None] * deepstack_KPSD).sum(0)
            return layer(x, w, picked)

        body = lookup(text.REMAT, remat, kind="remat")(body)
        return over_layers(
            lambda x, xs: body(text.between_layers(x, remat), xs),
            x,
            (text.stacked(self.layers), jnp.asarray(pick_nK, self.dtype)),
            self.unrolled,
        )

    def _embed_tokens(self, tokens: jax.Array) -> jax.Array:
        return embed(self.embedding[...], tokens, self.embedding_gradient).astype(self.dtype)

    def _embed_prompt(self, inputs: RowInputs, remat: str) -> tuple[jax.Array, jax.Array | None]:
        """Embeddings [P, S, D], images in place, and DeepStack [K, P, S, D] (or None) likewise."""
        x_PSD = self._embed_tokens(inputs.tokens_PS)
        N = inputs.segment_PN.shape[1]
        if not N:
            return x_PSD, None
        merged_PMD, deepstack_KPMD, _ = self.vision(
            inputs, self.dtype, remat, self.embedding_gradient, unrolled=self.unrolled
        )
        image_index_PS = jnp.asarray(inputs.image_index_PS)
        merged_M = jnp.arange(N // self.config.vision.merge, dtype=image_index_PS.dtype)
        place_PSM = (image_index_PS[..., None] == merged_M[None, None]).astype(self.dtype)

        def place(subscripts: str, features: jax.Array) -> jax.Array:
            return jnp.einsum(subscripts, place_PSM, features, precision=jax.lax.Precision.HIGHEST)

        image_PSD = place("psm,pmd->psd", merged_PMD)
        x_PSD = jnp.where((image_index_PS >= 0)[..., None], image_PSD, x_PSD)
        x_PSD = constrain.constrain(x_PSD, "rows")
        if deepstack_KPMD is not None:
            deepstack_KPMD = place("psm,kpmd->kpsd", deepstack_KPMD)
            deepstack_KPMD = constrain.constrain(deepstack_KPMD, None, "rows")
        return x_PSD, deepstack_KPMD

    def _angles(self, inputs: RowInputs, position_BL: jax.Array | None) -> rope.Angles:
        """Rotations of the prompts, followed by those of the responses at these positions."""
        prompt = rope.mrope(self.config.text, jnp.asarray(inputs.position_P3S), self._wide)
        if position_BL is None:
            return prompt
        B, L = position_BL.shape
        position_B3L = jnp.broadcast_to(position_BL[:, None], (B, 3, L))
        own = rope.mrope(self.config.text, position_B3L, self._wide)
        pairs = zip(prompt, own, strict=True)
        cos, sin = (jnp.concatenate([a.reshape(B, -1, a.shape[-1]), b], axis=1) for a, b in pairs)
        return cos, sin

    def _final(self, hidden: jax.Array) -> jax.Array:
        return text.rms_norm(hidden, self.norm[...], self.config.text.rms_norm_eps)


def _last_token(hidden_PSD: jax.Array, inputs: RowInputs) -> jax.Array:
    """The hidden state of each prompt's last token, [P, D], by a masked sum instead of a gather."""
    mask_PS = jnp.asarray(inputs.mask_PS)
    last_PS = mask_PS & ~jnp.pad(mask_PS[:, 1:], ((0, 0), (0, 1)))
    return jnp.where(last_PS[..., None], hidden_PSD, 0).sum(1)
