"""tunix's GRPOLearner, one global step at a time, on its Qwen3: it has no Qwen3-VL.

Text only: image tokens are replaced by words, so that prompts are as long as everybody's.
"""

import threading
from importlib.metadata import version

import jax
import numpy as np
import optax
from flax import nnx
from jax.sharding import AxisType
from speed.reward import even_words
from speed.worker import seconds, serve
from speed.workloads import CLIP, END, LR, TEMPERATURE, WORKLOADS, Workload
from tunix.models.qwen3.model import ModelConfig, Qwen3
from tunix.rl import rl_cluster
from tunix.rl.grpo.grpo_learner import GRPOConfig, GRPOLearner
from tunix.rl.rollout.base_rollout import RolloutConfig


class Words:
    """A tokenizer of words w<id>; the end of a response is beyond the vocabulary."""

    def __init__(self, vocabulary: int):
        self.vocabulary = vocabulary

    def encode(self, text: str, **_) -> list[int]:
        return [int(word[1:]) for word in text.split()]

    def decode(self, ids, **_) -> str:
        return " ".join(f"w{int(i)}" for i in ids)

    def bos_id(self) -> int:
        return 0  # none

    def pad_id(self) -> int:
        return 0

    def eos_id(self) -> int:
        return self.vocabulary


class Side:
    """The worker's state: a learner that waits before its next step."""

    def hello(self) -> dict:
        return {"versions": {"google-tunix": version("google-tunix"), "jax": jax.__version__}}

    def prepare(self, workload: str | dict, folder: str) -> dict:
        """A learner whose global step is the workload; random weights of the same shape."""
        w = WORKLOADS[workload] if isinstance(workload, str) else Workload(**workload)
        config = ModelConfig(
            num_layers=w.layers,
            vocab_size=w.vocabulary,
            embed_dim=w.hidden,
            hidden_dim=w.mlp,
            num_heads=w.heads,
            head_dim=w.head_dim,
            num_kv_heads=w.key_heads,
            rope_theta=5_000_000,
            norm_eps=1e-6,
            use_tied_embedding=True,
        )
        mesh = jax.make_mesh((1, 1), ("fsdp", "tp"), axis_types=(AxisType.Auto,) * 2)
        roles = (rl_cluster.Role.ACTOR, rl_cluster.Role.REFERENCE, rl_cluster.Role.ROLLOUT)
        adam = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(LR, weight_decay=0.01))
        training = rl_cluster.RLTrainingConfig(
            actor_optimizer=adam,
            eval_every_n_steps=1_000_000,
            max_steps=1_000_000,
            mini_batch_size=w.prompts,
            train_micro_batch_size=w.prompts,
        )
        rollout = RolloutConfig(
            max_tokens_to_generate=w.tokens,
            max_prompt_length=w.prompt_tokens,
            kv_cache_size=w.prompt_tokens + w.tokens,
            temperature=TEMPERATURE,
            top_p=1.0,
            eos_tokens=[w.vocabulary],
        )
        with jax.set_mesh(mesh):
            actor = Qwen3(config, rngs=nnx.Rngs(0))
        cluster = rl_cluster.RLCluster(
            actor=actor,
            reference=actor,
            tokenizer=Words(w.vocabulary),
            cluster_config=rl_cluster.ClusterConfig(
                role_to_mesh=dict.fromkeys(roles, mesh),
                training_config=training,
                rollout_config=rollout,
            ),
        )
        self.lengths: list[int] = []
        learner = GRPOLearner(
            rl_cluster=cluster,
            algo_config=GRPOConfig(
                num_generations=w.responses, num_iterations=1, beta=0.0, epsilon=CLIP
            ),
            reward_fns=self._reward,
        )
        self.workload = w
        self.go, self.done = threading.Semaphore(0), threading.Semaphore(0)
        self.error: Exception | None = None

        def train():
            try:
                with mesh:
                    learner.train(self._batches())
            except Exception as error:  # told by the next request
                self.error = error
            self.done.release()

        threading.Thread(target=train, daemon=True).start()
        self.done.acquire()
        return {"text_only": True}

    def _batches(self):
        """One batch a step; asked for the next one, the learner has done the last."""
        rng, w = np.random.default_rng(0), self.workload
        while True:
            self.done.release()
            self.go.acquire()
            words = rng.integers(END + 1, w.vocabulary, (w.prompts, w.prompt_tokens))
            yield {"prompts": np.array([" ".join(f"w{i}" for i in row) for row in words])}

    def _reward(self, prompts, completions, **_) -> list[float]:
        self.lengths = [len(completion.split()) for completion in completions]
        return [even_words(completion) for completion in completions]

    def time(self, phase: str) -> dict:
        """Seconds of a whole step.

        Raises:
          Exception: what the learner raised.
          ValueError: a response is not of the workload's length.
        """
        assert phase == "rl_step", phase

        def step():
            self.go.release()
            self.done.acquire()

        took = seconds(step)
        if self.error is not None:
            raise self.error
        w = self.workload
        if self.lengths != [w.tokens] * (w.prompts * w.responses):
            raise ValueError(f"responses of {sorted(set(self.lengths))} tokens, not {w.tokens}")
        return {"seconds": took}


if __name__ == "__main__":
    side = Side()
    serve({name: getattr(side, name) for name in ("hello", "prepare", "time")})
