"""Our side: the package's own programs on the workloads, prompts shared or repeated."""

import dataclasses
import functools
import os
from pathlib import Path

from speed import model_files
from speed.worker import gemm_peak, seconds, serve
from speed.workloads import LR, WORKLOADS, Prompt, Workload

from g2rpo_jax import platform

DEVICES = min(2, os.cpu_count())  # as `host_devices` of a config does for a user
platform.prepare(DEVICES)  # before JAX starts

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from g2rpo_jax import metrics, models  # noqa: E402
from g2rpo_jax.config import RunConfig, defaults, resolve  # noqa: E402
from g2rpo_jax.models.qwen3_vl import pack  # noqa: E402
from g2rpo_jax.parallel import mesh as meshes  # noqa: E402
from g2rpo_jax.parallel import rules  # noqa: E402
from g2rpo_jax.train import loop, state  # noqa: E402
from g2rpo_jax.train.policy_step import StepBatch  # noqa: E402
from g2rpo_jax.train.programs import Programs  # noqa: E402
from g2rpo_jax.train.trainer import Trainer  # noqa: E402


def config_of(workload: Workload, folder: str, microbatches: int = 1) -> RunConfig:
    """A run whose step is the workload."""
    config = defaults()
    config.steps = 100_000
    config.responses, config.max_tokens = workload.responses, workload.tokens
    config.decode_chunk = workload.tokens
    config.model.directory, config.model.remat = folder, "none"
    config.data.train = config.data.test = f"{folder}/rows.json"
    config.data.template = "plain"
    config.data.prompt_tokens = (workload.prompt_tokens,)
    config.data.patches = (workload.patches,)
    config.batch.rollout_prompts = config.batch.prompts = workload.prompts
    config.batch.microbatches = microbatches
    config.filter.enabled = False
    config.reward.custom = "speed.reward:even_words"
    config.shaping.length_weight = config.shaping.entropy_weight = 0.0
    config.optim.lr = LR
    config.eval.every, config.eval.prompts = 0, workload.prompts
    return resolve(config)


class Variant:
    """One way of laying the same work out: P rows of G responses, or P x G rows of one.

    Attributes:
      micro: parts of the rows' minibatch.
    """

    def __init__(self, workload: Workload, folder: str, repeated: bool):
        P, G = workload.prompts, workload.responses
        copies = G if repeated else 1
        prompts = [p for p in workload.prompts_of() for _ in range(copies)]
        if not workload.patches:
            prompts = [Prompt(p.input_ids, None, None) for p in prompts]
        self.workload = dataclasses.replace(workload, prompts=P * copies, responses=G // copies)
        tokens, adv = workload.responses_of()
        self.tokens = tokens.reshape(P * copies, G // copies, -1)
        self.adv = adv.reshape(P * copies, G // copies)
        self.folder, self.micro, self._steps = folder, 1, {}
        config = config_of(self.workload, folder)
        self.mesh = meshes.make(config.mesh)
        self.model = models.load(
            folder,
            dtype=jnp.float32,
            shardings=functools.partial(rules.sharding_of, self.mesh),
        )
        models.suit(self.model, platform.current(), config.model.attention)  # as a run does
        self.graphdef, self.params, self.frozen = state.split(self.model, config.model)
        w = self.workload
        self.inputs = pack(prompts, self.model.config, w.prompt_tokens, w.patches)
        self.programs = self._programs(1)
        self.weights = self.programs.weights(self.params, self.frozen)

    def _programs(self, microbatches: int) -> Programs:
        return Programs(
            config_of(self.workload, self.folder, microbatches),
            self.mesh,
            platform.current(),
            self.graphdef,
            self.params,
            self.frozen,
            updates=100_000,
            eos=(self.workload.vocabulary,),
            pad=0,
        )

    def rollout(self) -> None:
        out = self.programs.engine.generate(
            self.weights, self.inputs, range(self.workload.prompts), seed=0
        )
        assert out.mask_PGT.all(), "a response ended early"

    def policy_step(self) -> None:
        """One update; the state goes on from call to call."""
        micro = self.micro
        if micro not in self._steps:
            programs = self._programs(micro)
            make = functools.partial(state.create, tx=programs.tx)
            placed = rules.shardings(programs.state, self.mesh)
            begun = jax.jit(make, out_shardings=placed)(self.params)
            self._steps[micro] = [programs, begun]
        programs, begun = self._steps[micro]
        batch = meshes.put_rows(self.mesh, self._batch())
        after, sums = programs.update(begun, self.frozen, batch)
        self._steps[micro][1] = after
        assert jax.device_get(jax.block_until_ready((after, sums))[1])["skipped"] == 0

    def _batch(self) -> StepBatch:
        P, zeros = len(self.tokens), np.zeros(self.tokens.shape, np.float32)
        return StepBatch(
            inputs=self.inputs,
            response_PGT=self.tokens,
            mask_PGT=np.ones(self.tokens.shape, bool),
            adv_PG=self.adv,
            old_logp_PGT=zeros,
            on_policy_P=np.ones(P, bool),
            sampler_logp_PGT=zeros,
            ref_logp_PGT=None,
            task_P=np.zeros(P, np.int32),
        )

    def settle(self) -> None:
        """Takes the micro-batches that have about 8 responses a device, and compiles. With 16 W1 to
        W3 took as long or longer in ten of twelve tries: not tried again every time."""
        rows, G = self.workload.prompts // self.mesh.devices.size, self.workload.responses
        self.micro = max(m for m in range(1, rows + 1) if rows % m == 0 and rows // m * G >= 8)
        self.policy_step()

    def logps(self) -> np.ndarray:
        where = meshes.put_rows(self.mesh, (self.inputs, self.tokens))
        return np.asarray(self.programs.score(self.params, self.frozen, *where))


class Side:
    """The worker's state: the workload at hand."""

    def __init__(self):
        self.variants: dict[str, Variant] = {}
        self.trainer: Trainer | None = None
        self.compiles = metrics.CompileCounter()

    def hello(self) -> dict:
        def product(n):
            rng = np.random.default_rng(0)
            a, b = (jnp.asarray(rng.standard_normal((n, n)), jnp.float32) for _ in range(2))
            times = jax.jit(jnp.matmul)
            return lambda: times(a, b).block_until_ready()

        versions = {"jax": jax.__version__, "numpy": np.__version__}
        return {"versions": versions, "host_devices": DEVICES, "gemm_flops": gemm_peak(product)}

    def prepare(self, workload: str | dict, folder: str, variants: list[str]) -> dict:
        self.close()
        w = WORKLOADS[workload] if isinstance(workload, str) else Workload(**workload)
        if not Path(folder, "rows.json").exists():
            model_files.write(w, Path(folder))
        for name in variants:
            self.variants[name] = Variant(w, folder, name == "repeated")
        self.workload, self.folder = w, folder
        return {}

    def settle(self, variant: str) -> dict:
        before = self.compiles.seconds
        self.variants[variant].settle()
        took = round(self.compiles.seconds - before, 2)
        return {"microbatches": self.variants[variant].micro, "compile_s": took}

    def set_microbatches(self, variant: str, microbatches: int) -> dict:
        self.variants[variant].micro = microbatches
        return {}

    def logps(self, out: str) -> dict:
        np.save(out, self.variants["shared"].logps().reshape(-1, self.workload.tokens))
        return {}

    def time(self, phase: str, variant: str = "shared") -> dict:
        if phase == "rl_step":
            return self.rl_step()
        before = self.compiles.seconds
        took = seconds(getattr(self.variants[variant], phase))
        return {"seconds": took, "compile_s": self.compiles.seconds - before}

    def begin(self, config: str = "") -> dict:
        """A trainer for whole steps: of the workload, or of the named variant of a config file."""
        if config:
            from configs import onethinker

            asked = resolve(onethinker.get_config(config))
            self.close()
        else:
            micro = self.variants["shared"].micro
            asked = config_of(self.workload, self.folder, micro)
        self.trainer, self.step = Trainer(asked), 0
        return {"steps": 0}

    def rl_step(self) -> dict:
        self.step += 1
        before, numbers = self.compiles.seconds, {}

        def one():
            numbers.update(loop._step(self.trainer, self.step)[0])
            jax.block_until_ready(self.trainer.state)

        took = seconds(one)
        kept = ("time/", "batch/", "rollout/")
        said = {k: float(v) for k, v in numbers.items() if k.startswith(kept)}
        return {"seconds": took, "compile_s": self.compiles.seconds - before, "numbers": said}

    def close(self) -> None:
        if self.trainer is not None:
            self.trainer.close()
        self.trainer, self.variants = None, {}
        jax.clear_caches()


if __name__ == "__main__":
    side = Side()
    names = ("hello", "prepare", "settle", "set_microbatches", "logps", "time", "begin", "close")
    serve({name: getattr(side, name) for name in names})
