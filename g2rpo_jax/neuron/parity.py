"""At start-up: does the device compute what the CPU computes?

Wrong numbers, rather than errors, are how a young compiler fails. So before the weights are loaded
a very small model goes forward, takes one gradient step and decodes one chunk, on the run's mesh
and on one CPU device, with the run's own programs.
"""

import dataclasses
import math
from collections.abc import Callable

import jax
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh

from g2rpo_jax import platform
from g2rpo_jax.config import RunConfig
from g2rpo_jax.models.qwen3_vl import Qwen3VL, Qwen3VLConfig, TextConfig, VisionConfig, pack
from g2rpo_jax.objectives import ObjectiveConfig
from g2rpo_jax.parallel import mesh as meshes
from g2rpo_jax.parallel import rules
from g2rpo_jax.platform import Backend
from g2rpo_jax.rollout.engine import Engine
from g2rpo_jax.rollout.sampler import BLOCK, SamplingConfig
from g2rpo_jax.train import state
from g2rpo_jax.train.policy_step import StepBatch, StepConfig, compile_score, compile_step

V, IMAGE, VIDEO, START, END, EOS, PAD = 4 * BLOCK, 500, 501, 502, 503, 504, 505
S, N, G, T, CHUNK = 16, 8, 2, 4, 3
# Of bfloat16 gradients, 4 % was measured between one CPU device and eight.
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1}
Wrap = Callable[[Callable], Callable]


@dataclasses.dataclass(frozen=True)
class Difference:
    """How far one result is off.

    Attributes:
      what: "forward", "gradient ..." or "decode ...".
      error: root of the summed squared differences over that of the reference's numbers; 1 is as
        wrong as all zeros.
    """

    what: str
    error: float


@dataclasses.dataclass(frozen=True)
class _Prompt:
    input_ids: np.ndarray
    pixel_values: np.ndarray | None
    image_grid_thw: np.ndarray | None


def of_run(config: RunConfig, say: Callable[[str], None] = print) -> None:
    """`require` for the devices, mesh and number format of a run."""
    backend = platform.current()
    dtype = state.compute_dtype(config.model, backend)
    require(meshes.make(config.mesh), backend, dtype, say)


def require(mesh: Mesh, backend: Backend, dtype: str, say: Callable[[str], None] = print) -> None:
    """Compares the run's mesh with the CPU; prints the largest difference.

    Args:
      mesh: of the run.
      backend: its record.
      dtype: of the run's activations, "float32" or "bfloat16".
      say: takes the sentence about the largest difference.
    Raises:
      ValueError: if they differ beyond TOLERANCE, or there is no CPU device to compare with.
    """
    try:
        cpu = jax.local_devices(backend="cpu")[:1]
    except RuntimeError as error:
        raise ValueError(
            "the start-up check compares with the CPU, and JAX has no CPU device: set "
            "JAX_PLATFORMS=neuron,cpu, or skip the check with --nocheck_device"
        ) from error
    reference = meshes.make(meshes.MeshConfig(1, 1, 1), cpu)
    found = Check(mesh, reference, backend, dtype).differences()
    worst = max(found, key=lambda difference: difference.error)
    limit = TOLERANCE[dtype]
    name = mesh.devices.flat[0].platform
    say(
        f"start-up check: {name} and CPU differ by {worst.error:.1e} at most ({worst.what}; "
        f"limit {limit:g} in {dtype})"
    )
    if not worst.error <= limit:
        wrong = [d for d in found if not d.error <= limit]
        listed = ", ".join(f"{d.what} by {d.error:.1e}" for d in wrong[:5])
        raise ValueError(
            f"{name} computes something else than the CPU: {listed} (limit {limit:g}). Training "
            "would go wrong without an error: try another compiler version or mesh, report it, or "
            "go on at your own risk with --nocheck_device"
        )


def _error(found: np.ndarray, expected: np.ndarray) -> float:
    found, expected = found.astype(np.float64), expected.astype(np.float64)
    scale = math.sqrt(np.sum(expected**2))
    error = math.sqrt(np.sum((found - expected) ** 2))
    return error / scale if scale else error


class Check:
    """The small model, its rows, and the run's programs for both meshes."""

    def __init__(self, mesh: Mesh, reference: Mesh, backend: Backend, dtype: str):
        """
        Args:
          mesh: what is checked.
          reference: what it is held against, e.g. of one CPU device.
          backend: whose programs are run, on both.
          dtype: of activations.
        """
        self.mesh, self.reference, self.backend = mesh, reference, backend
        self.config = _model_config(mesh.shape["tensor"])
        P = meshes.row_ways(mesh)
        rng = np.random.default_rng(0)
        prompts = [_prompt(rng, self.config, p % 3 < 2) for p in range(P)]
        zeros_PGT = np.zeros((P, G, T), np.float32)
        self.batch = StepBatch(
            inputs=pack(prompts, self.config, S, N),
            response_PGT=rng.integers(0, IMAGE, (P, G, T)).astype(np.int32),
            mask_PGT=np.arange(T)[None, None] < rng.integers(1, T + 1, (P, G, 1)),
            adv_PG=rng.normal(size=(P, G)).astype(np.float32),
            old_logp_PGT=zeros_PGT,
            on_policy_P=np.ones(P, bool),
            sampler_logp_PGT=zeros_PGT,
            ref_logp_PGT=None,
            task_P=np.zeros(P, np.int32),
        )
        onehot = backend.embedding_gradient
        with jax.default_device(jax.local_devices(backend="cpu")[0]):
            model = Qwen3VL(self.config, nnx.Rngs(0), dtype, embedding_gradient=onehot)
            self.graphdef, params = nnx.split(model)
        self.params = jax.tree.map(np.asarray, params)
        self._made: dict = {}
        # The uniforms are chosen from the reference's distributions, in the middle of the most
        # likely token's share: rounding does not change the token.
        self.u_PGc = self._safe_uniforms(reference)
        self._expected = self._run(reference)

    def differences(self, wrap: Wrap = lambda f: f) -> list[Difference]:
        """How far every result on the mesh is off.

        Args:
          wrap: put around every program of the mesh, for tests: a fault to be found.
        """
        found = self._run(self.mesh, wrap)
        return [Difference(what, _error(found[what], x)) for what, x in self._expected.items()]

    def _run(self, mesh: Mesh, wrap: Wrap = lambda f: f) -> dict[str, np.ndarray]:
        """Results by name, on the host."""
        rows = meshes.row_sharding(mesh)
        params, batch = self._placed(mesh), jax.device_put(self.batch, rows)
        frozen, P = nnx.State({}), len(self.batch.task_P)
        start, score, update, engine = self._compiled(mesh, params, frozen)
        found = {"forward": wrap(score)(params, frozen, batch.inputs, batch.response_PGT)}
        moved = wrap(update)(start, frozen, batch)[0].params
        found |= _gradients(moved)
        limit_P = jax.device_put(np.full(P, T, np.int32), rows)
        begun = wrap(engine.prefill)(params, batch.inputs, limit_P)
        at = jax.device_put(np.int32(0), meshes.replicated(mesh))
        u_PGc = jax.device_put(self.u_PGc, rows)
        found["prefill"] = begun.hidden_PGD
        ended, token, _, logp = wrap(engine.decode)(params, batch.inputs, begun, u_PGc, at)
        found |= {"decode": ended.hidden_PGD, "decoded tokens": token, "decoded log-probs": logp}
        whole = jax.jit(lambda x: x, out_shardings=meshes.replicated(mesh))(found)
        host = {name: np.asarray(x.addressable_data(0)) for name, x in whole.items()}
        return host | {k: before - host[k] for k, before in _gradients(self.params).items()}

    def _compiled(self, mesh: Mesh, params, frozen):
        """(TrainState, score, update, engine), once for each mesh."""
        if mesh not in self._made:
            config = StepConfig(objective=ObjectiveConfig(name="gpg"))
            score = compile_score(self.graphdef, config, mesh)
            tx = optax.sgd(1.0)  # parameters move by their gradient
            with jax.default_device(mesh.local_devices[0]):
                start = state.create(params, tx)
            start = jax.device_put(start, rules.shardings(start, mesh))
            update = compile_step(self.graphdef, tx, config, mesh, start, frozen, donate=False)
            self._made[mesh] = start, score, update, self._engine(mesh)
        return self._made[mesh]

    def _safe_uniforms(self, mesh: Mesh) -> np.ndarray:
        """[P, G, CHUNK]: the middle of the most likely token's share of the distribution."""
        params = self._placed(mesh)
        *_, engine = self._compiled(mesh, params, nnx.State({}))
        P = len(self.batch.task_P)
        rows = meshes.row_sharding(mesh)
        inputs = jax.device_put(self.batch.inputs, rows)
        limit_P = jax.device_put(np.full(P, T, np.int32), rows)
        begun, chosen = engine.prefill(params, inputs, limit_P), []
        table_VD = np.asarray(self.params["embedding"].get_value(), np.float64)
        for t in range(CHUNK):
            logits = np.asarray(begun.hidden_PGD, np.float64) @ table_VD.T
            p_PGV = np.exp(logits - logits.max(-1, keepdims=True))
            p_PGV /= p_PGV.sum(-1, keepdims=True)
            top_PG1 = p_PGV.argmax(-1)[..., None]
            upto = np.take_along_axis(p_PGV.cumsum(-1), top_PG1, -1)
            u_PG1 = (upto - np.take_along_axis(p_PGV, top_PG1, -1) / 2).astype(np.float32)
            chosen.append(u_PG1)
            at = jax.device_put(np.int32(t), meshes.replicated(mesh))
            begun, *_ = engine.decode(params, inputs, begun, jax.device_put(u_PG1, rows), at)
        return np.concatenate(chosen, -1)

    def _placed(self, mesh: Mesh):
        return jax.device_put(self.params, rules.shardings(self.params, mesh))

    def _engine(self, mesh: Mesh) -> Engine:
        return Engine(
            self.graphdef,
            mesh,
            responses=G,
            max_tokens=CHUNK,
            chunk=CHUNK,
            sampling=SamplingConfig(),
            eos=(EOS,),
            pad=PAD,
            donate=False,  # a state is looked at again
        )


def _gradients(params) -> dict:
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {f"gradient of {rules.path_name(k).removesuffix('.value')}": x for k, x in leaves}


def _model_config(tensor: int) -> Qwen3VLConfig:
    """A model of two layers whose heads divide over the mesh's tensor axis."""
    heads = max(8, tensor)
    width = 8 * heads
    return Qwen3VLConfig(
        text=TextConfig(
            vocab_size=V,
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=2,
            num_attention_heads=heads,
            num_key_value_heads=heads,
            head_dim=8,
            mrope_section=(2, 1, 1),
            initializer_range=0.2,
        ),
        vision=VisionConfig(
            depth=2,
            hidden_size=width,
            intermediate_size=2 * width,
            num_heads=heads,
            patch_size=4,
            out_hidden_size=width,
            num_position_embeddings=16,
            deepstack_visual_indexes=(0,),
            initializer_range=0.2,
        ),
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        vision_start_token_id=START,
        vision_end_token_id=END,
        tie_word_embeddings=True,
    )


def _prompt(rng: np.random.Generator, config: Qwen3VLConfig, image: bool) -> _Prompt:
    words = rng.integers(0, IMAGE, rng.integers(3, 8)).astype(np.int32)
    if not image:
        return _Prompt(words, None, None)
    grid = np.array([[1, 2, 4]])
    run = np.array([START, IMAGE, IMAGE, END], np.int32)
    pixels = rng.normal(size=(8, config.vision.patch_features)).astype(np.float32)
    return _Prompt(np.concatenate([run, words]), pixels, grid)
