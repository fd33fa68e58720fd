"""Rollout and update of Qwen3-VL at 2B and 4B in bfloat16 on one GPU, ours and transformers'.

    python benchmarks/speed/gpu.py [--size 2B 4B] [--torch=PYTHON] [--prompts 8] [--repeats 3]

PYTHON is an interpreter with torch (CUDA) and transformers; without --torch only our side runs.
Weights are random. Each side has the card to itself, in a process of its own; it measures the best
rate of bfloat16 products and of copying first, and every share is of what its own process measured.
Prints a JSON list, a row for each size and side:

- `rollout_tokens_per_s`, `update_tokens_per_s`: of response tokens;
- `mfu_rollout`, `mfu_update`: products of prompts counted once (an update: three forward passes),
  over the measured peak; the same count for both sides;
- `token_s` and `bandwidth`: seconds of one decoded token of all responses (from rollouts of T and
  T / 2 tokens), and the share of the copying rate at which weights and caches are read for it;
- `peak_gib`: of device memory (of the process, on a CPU).

`--size tiny` runs anywhere, a CPU too, and says only that the script works.
"""

import argparse
import dataclasses
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.speed.workloads import CLIP, IMAGE, LR, Workload  # noqa: E402


@dataclasses.dataclass(frozen=True)
class Released(Workload):
    """A workload whose DeepStack features leave only some of the tower's blocks.

    Attributes:
      taps: those blocks. places: learned positions of the tower.
    """

    taps: tuple[int, ...] = (5, 11, 17)
    places: int = 2304

    def config(self) -> dict:
        found = super().config()
        found["vision_config"]["deepstack_visual_indexes"] = list(self.taps)
        found["vision_config"]["num_position_embeddings"] = self.places
        return found

    def _vision_flops(self) -> float:
        wide = self.vision_hidden * 4
        merge = 2 * self.patches / 4 * (wide * wide + wide * self.hidden)
        return super()._vision_flops() - (self.vision_depth - len(self.taps)) * merge

    @property
    def text_parameters(self) -> int:
        """What decoding reads for every token: layers, and the table as the output's."""
        heads = self.head_dim * (2 * self.heads + 2 * self.key_heads)
        layer = self.hidden * (heads + 3 * self.mlp)
        return self.layers * layer + self.vocabulary * self.hidden

    def decode_bytes(self, shared: bool, width: int = 2) -> float:
        """Bytes read to decode one token of every response, half of them being there."""
        rows = 1 if shared else self.responses
        cached = rows * self.prompt_tokens + self.responses * self.tokens / 2
        key_and_value = 2 * self.layers * self.key_heads * self.head_dim
        return width * (self.text_parameters + self.prompts * cached * key_and_value)


def workload_of(size: str, prompts: int) -> Released:
    """One image of 512 x 512 and 256 text tokens a prompt, 8 responses of 256; "tiny": hardly any.

    The shapes are those of `g2rpo_jax.models.qwen3_vl.sizes`, written out because torch's side has
    no JAX.
    """
    if size == "tiny":
        small = dict(hidden=64, layers=2, heads=4, key_heads=2, head_dim=16, mlp=96, vocabulary=256)
        return Released("tiny", 2, 2, 8, side=64, text=8, taps=(0, 2), places=256, **small)
    text = {
        "2B": dict(hidden=2048, mlp=6144, layers=28, heads=16),
        "4B": dict(hidden=2560, mlp=9728, layers=36, heads=32),
    }[size]
    tower = dict(vision_depth=24, vision_hidden=1024, vision_heads=16, vision_mlp=4096)
    shape = dict(key_heads=8, head_dim=128, vocabulary=151936)
    return Released(size, prompts, 8, 256, side=512, text=256, **text, **tower, **shape)


class Ours:
    """The package's own programs, prompts shared by their responses."""

    shared = True

    def __init__(self, workload: Released, microbatches: int):
        import jax
        import jax.numpy as jnp
        from flax import nnx

        from g2rpo_jax import platform
        from g2rpo_jax.models.qwen3_vl import Qwen3VL, pack
        from g2rpo_jax.models.qwen3_vl.config import Qwen3VLConfig
        from g2rpo_jax.parallel import mesh as meshes
        from g2rpo_jax.parallel import rules
        from g2rpo_jax.train import state

        self.jax, self.jnp, self.w, self.meshes = jax, jnp, workload, meshes
        self.backend = dataclasses.replace(platform.current(), compute_dtype="bfloat16")
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "config.json").write_text(json.dumps(workload.config()))
            shape = Qwen3VLConfig.read(Path(folder))
        self.mesh = meshes.make(self._config(workload.tokens, 1).mesh, jax.devices()[:1])
        model = nnx.eval_shape(lambda: Qwen3VL(shape, None, jnp.bfloat16, jnp.bfloat16))
        model.embedding_gradient = self.backend.embedding_gradient
        model.attention = self.backend.attention
        self.graphdef, abstract = nnx.split(model)

        def draw() -> nnx.State:
            leaves, tree = jax.tree.flatten(abstract)
            keys = jax.random.split(jax.random.key(0), len(leaves))
            drawn = [
                0.02 * jax.random.normal(k, x.shape, x.dtype)
                for k, x in zip(keys, leaves, strict=True)
            ]
            return jax.tree.unflatten(tree, drawn)

        self.params = jax.jit(draw, out_shardings=rules.shardings(abstract, self.mesh))()
        self.frozen = nnx.State({})
        self.inputs = pack(workload.prompts_of(), shape, workload.prompt_tokens, workload.patches)
        self.engines = {}
        programs = self._programs(workload.tokens, microbatches)
        make = jax.jit(
            lambda params: state.create(params, programs.tx),
            out_shardings=rules.shardings(programs.state, self.mesh),
            donate_argnums=0,  # as in a run, the trained weights are the only ones
        )
        self.programs, self.make, self.state = programs, make, None

    def _config(self, tokens: int, microbatches: int):
        from g2rpo_jax.config import defaults, resolve

        config, w = defaults(), self.w
        config.steps, config.responses = 1000, w.responses
        config.max_tokens = config.decode_chunk = tokens
        config.model.directory, config.model.param_dtype = "Qwen3-VL", "bfloat16"
        config.optim.state_dtype, config.optim.lr = "bfloat16", LR
        config.data.prompt_tokens, config.data.patches = (w.prompt_tokens,), (w.patches,)
        config.batch.rollout_prompts = config.batch.prompts = w.prompts
        config.batch.microbatches = microbatches
        config.shaping.length_weight = config.shaping.entropy_weight = 0.0
        return resolve(config)

    def _programs(self, tokens: int, microbatches: int):
        from g2rpo_jax.train.programs import Programs

        return Programs(
            self._config(tokens, microbatches),
            self.mesh,
            self.backend,
            self.graphdef,
            self.params,
            self.frozen,
            updates=1000,
            eos=(self.w.vocabulary,),  # no token: responses never end early
            pad=0,
        )

    def rollout(self, tokens: int) -> None:
        if tokens not in self.engines:
            self.engines[tokens] = self._programs(tokens, 1).engine
        out = self.engines[tokens].generate(self.params, self.inputs, range(self.w.prompts), seed=0)
        assert out.mask_PGT.all(), "a response ended early"

    def update(self) -> None:
        from g2rpo_jax.train.policy_step import StepBatch

        if self.state is None:
            self.state = self.make(self.params)
        (tokens, adv), P = self.w.responses_of(), self.w.prompts
        zeros = np.zeros(tokens.shape, np.float32)
        batch = StepBatch(
            inputs=self.inputs,
            response_PGT=tokens,
            mask_PGT=np.ones(tokens.shape, bool),
            adv_PG=adv,
            old_logp_PGT=zeros,
            on_policy_P=np.ones(P, bool),
            sampler_logp_PGT=zeros,
            ref_logp_PGT=None,
            task_P=np.zeros(P, np.int32),
        )
        batch = self.meshes.put_rows(self.mesh, batch)
        self.state, sums = self.programs.update(self.state, self.frozen, batch)
        assert (
            self.jax.device_get(self.jax.block_until_ready((self.state, sums))[1])["skipped"] == 0
        )

    def product(self, side: int) -> Callable[[], object]:
        a = self.jnp.ones((side, side), self.jnp.bfloat16)
        times = self.jax.jit(self.jnp.matmul)
        return lambda: times(a, a).block_until_ready()

    def copy(self, numbers: int) -> Callable[[], object]:
        x = self.jnp.ones(numbers, self.jnp.bfloat16)
        add = self.jax.jit(lambda x: x + 1)
        return lambda: add(x).block_until_ready()

    def peak_bytes(self) -> int | None:
        told = self.jax.devices()[0].memory_stats() or {}
        return told.get("peak_bytes_in_use")

    def name(self) -> str:
        return f"{self.jax.devices()[0].device_kind}, jax {self.jax.__version__}"


class Torch:
    """transformers: `generate`, and an eager update as TRL makes it; every sequence whole."""

    shared = False

    def __init__(self, workload: Released, microbatches: int):
        import torch
        import transformers

        self.torch, self.transformers, self.w = torch, transformers, workload
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "config.json").write_text(json.dumps(workload.config()))
            config = transformers.AutoConfig.from_pretrained(folder)
        torch.manual_seed(0)
        torch.set_default_dtype(torch.bfloat16)
        with torch.device(self.device):
            self.model = transformers.Qwen3VLForConditionalGeneration(config)
        torch.set_default_dtype(torch.float32)
        self.model.activation_checkpointing_enable()  # ours recomputes layers too
        self.optimizer = None
        G = workload.responses
        prompts = [p for p in workload.prompts_of() for _ in range(G)]
        self.ids = self._put(np.stack([p.input_ids for p in prompts]).astype(np.int64))
        self.pixels = self._put(np.stack([p.pixel_values for p in prompts])).bfloat16()
        self.grid = self._put(np.concatenate([p.image_grid_thw for p in prompts]))
        tokens, adv = workload.responses_of()
        self.tokens = self._put(tokens.reshape(len(prompts), -1).astype(np.int64))
        self.adv = self._put(adv.reshape(-1, 1))
        self.micro = len(prompts) // microbatches

    def _put(self, array: np.ndarray):
        return self.torch.from_numpy(array).to(self.device)

    def _part(self, rows: slice, ids) -> dict:
        return {
            "input_ids": ids,
            "attention_mask": self.torch.ones_like(ids),
            "mm_token_type_ids": (ids == IMAGE).int(),
            "pixel_values": self.pixels[rows].flatten(0, 1),
            "image_grid_thw": self.grid[rows],
        }

    def _wait(self) -> None:
        if self.device == "cuda":
            self.torch.cuda.synchronize()

    def rollout(self, tokens: int) -> None:
        settings = self.transformers.GenerationConfig(
            do_sample=True, top_k=0, top_p=1.0, max_new_tokens=tokens, pad_token_id=0
        )
        self.model.eval()
        with self.torch.no_grad():
            out = self.model.generate(
                **self._part(slice(None), self.ids), generation_config=settings
            )
        self._wait()
        assert out.shape[1] == self.w.prompt_tokens + tokens, "a response ended early"

    def update(self) -> None:
        torch, T = self.torch, self.w.tokens
        if self.optimizer is None:
            fused = self.device == "cuda"
            self.optimizer = torch.optim.AdamW(self.model.parameters(), LR, fused=fused)
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        for start in range(0, len(self.ids), self.micro):
            rows = slice(start, start + self.micro)
            part = self._part(rows, torch.cat([self.ids[rows], self.tokens[rows]], 1))
            logits = self.model(**part, logits_to_keep=T + 1, use_cache=False).logits[:, :-1]
            chosen = logits.float().gather(-1, self.tokens[rows][..., None])[..., 0]
            logp = chosen - logits.float().logsumexp(-1)
            ratio, adv = torch.exp(logp - logp.detach()), self.adv[rows]
            gain = torch.min(ratio * adv, ratio.clamp(1 - CLIP, 1 + CLIP) * adv)
            (-gain.sum() / self.tokens.numel()).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self._wait()

    def product(self, side: int) -> Callable[[], object]:
        a = self.torch.ones((side, side), dtype=self.torch.bfloat16, device=self.device)
        return lambda: (a @ a, self._wait())

    def copy(self, numbers: int) -> Callable[[], object]:
        x = self.torch.ones(numbers, dtype=self.torch.bfloat16, device=self.device)
        return lambda: (x + 1, self._wait())

    def peak_bytes(self) -> int | None:
        return self.torch.cuda.max_memory_allocated() if self.device == "cuda" else None

    def name(self) -> str:
        card = self.torch.cuda.get_device_name() if self.device == "cuda" else "cpu"
        return f"{card}, torch {self.torch.__version__}"


def measure(side: "Ours | Torch", w: Released, repeats: int, small: bool) -> dict:
    """The row of one side."""
    edge, numbers = (256, 2**18) if small else (8192, 2**30)
    peak = 2 * edge**3 / _least(side.product(edge))
    bandwidth = 2 * 2 * numbers / _least(side.copy(numbers))  # read and written, two bytes each
    whole = _median(lambda: side.rollout(w.tokens), repeats)
    half = _median(lambda: side.rollout(w.tokens // 2), repeats)
    update = _median(side.update, repeats)
    token_s = (whole - half) / (w.tokens - w.tokens // 2)
    counted, flops = w.prompts * w.responses * w.tokens, w.forward_flops(True)
    memory = side.peak_bytes()
    if memory is None:
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "size": w.name,
        "device": side.name(),
        "rollout_s": whole,
        "update_s": update,
        "rollout_tokens_per_s": counted / whole,
        "update_tokens_per_s": counted / update,
        "peak_flops": peak,
        "copy_bytes_per_s": bandwidth,
        "mfu_rollout": flops / whole / peak,
        "mfu_update": 3 * flops / update / peak,
        "token_s": token_s,
        "bandwidth": w.decode_bytes(side.shared) / token_s / bandwidth,
        "peak_gib": memory / 2**30,
    }


def _seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def _median(call: Callable[[], object], repeats: int) -> float:
    call()  # compiles
    return statistics.median(_seconds(call) for _ in range(repeats))


def _least(call: Callable[[], object]) -> float:
    call()
    return min(_seconds(call) for _ in range(8))


SIDES = {"ours": Ours, "torch": Torch}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", nargs="+", default=("2B", "4B"), choices=("2B", "4B", "tiny"))
    parser.add_argument("--torch", metavar="PYTHON")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--microbatches", type=int, default=2, help="of either side's update")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--side", choices=SIDES, help="one side alone, of the first size")
    asked = parser.parse_args()
    if asked.side:
        w = workload_of(asked.size[0], asked.prompts)
        side = SIDES[asked.side](w, asked.microbatches)
        row = measure(side, w, asked.repeats, small=w.name == "tiny")
        print(json.dumps({"side": asked.side} | row))
        return
    pythons = {"ours": sys.executable} | ({"torch": asked.torch} if asked.torch else {})
    rows = []
    for size in asked.size:
        for side, python in pythons.items():
            line = [python, __file__, f"--side={side}", f"--size={size}"]
            line += [f"--{name}={getattr(asked, name)}" for name in PASSED_ON]
            done = subprocess.run(line, stdout=subprocess.PIPE, text=True)
            failed = {"side": side, "size": size, "error": f"exit status {done.returncode}"}
            rows.append(failed if done.returncode else json.loads(done.stdout.splitlines()[-1]))
    print(json.dumps(rows, indent=1))


PASSED_ON = ("prompts", "microbatches", "repeats")

if __name__ == "__main__":
    main()
