"""transformers on torch: `generate`, and the policy step as TRL does it; eager or torch.compile.

Runs in the peers' environment; every prompt is repeated for each of its responses, images too, as
TRL repeats them.
"""

import functools
from importlib.metadata import version

import numpy as np
import torch
from speed.worker import gemm_peak, seconds, serve
from speed.workloads import CLIP, IMAGE, LR, TEMPERATURE, WORKLOADS, Workload
from transformers import CompileConfig, GenerationConfig, Qwen3VLForConditionalGeneration


class Side:
    """The worker's state: a model of the workload at hand, eager or compiled."""

    def __init__(self):
        self.workload: Workload | None = None

    def hello(self) -> dict:
        def product(n):
            a, b = torch.randn(n, n), torch.randn(n, n)
            return lambda: a @ b

        versions = {name: version(name) for name in ("torch", "transformers", "trl")}
        threads = torch.get_num_threads()
        return {"versions": versions, "threads": threads, "gemm_flops": gemm_peak(product)}

    def prepare(self, workload: str | dict, folder: str, compiled: bool = False) -> dict:
        """Loads the model; `compiled`: the language model through torch.compile, in updates."""
        torch._dynamo.reset()
        w = WORKLOADS[workload] if isinstance(workload, str) else Workload(**workload)
        self.workload, self.micro = w, w.prompts * w.responses
        load = Qwen3VLForConditionalGeneration.from_pretrained
        self.model = load(folder, dtype=torch.float32, attn_implementation="sdpa")
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=LR, weight_decay=0.01)
        self.language = self.model.model.language_model
        self.compiled = torch.compile(self.language.forward, dynamic=False) if compiled else None
        prompts = [p for p in w.prompts_of() for _ in range(w.responses)]
        self.inputs = {
            "input_ids": torch.from_numpy(np.stack([p.input_ids for p in prompts])).long(),
            "pixel_values": torch.from_numpy(np.stack([p.pixel_values for p in prompts])),
            "image_grid_thw": torch.from_numpy(np.concatenate([p.image_grid_thw for p in prompts])),
        }
        tokens, adv = w.responses_of()
        self.tokens = torch.from_numpy(tokens.reshape(len(prompts), -1)).long()
        self.adv = torch.from_numpy(adv.reshape(-1, 1))
        return {}

    def _part(self, rows: slice, ids: torch.Tensor) -> dict:
        """What the model takes for some of the sequences, of prompt or prompt and response."""
        found = {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "mm_token_type_ids": (ids == IMAGE).int(),
        }
        if self.workload.patches:
            found["pixel_values"] = self.inputs["pixel_values"][rows].flatten(0, 1)
            found["image_grid_thw"] = self.inputs["image_grid_thw"][rows]
        return found

    def rollout(self, compiled: bool = False) -> None:
        """Every response at full length, sampled at temperature 1."""
        w = self.workload
        vars(self.language).pop("forward", None)  # `generate` compiles by itself
        extra = {}
        if compiled:
            extra["cache_implementation"] = "static"
            extra["compile_config"] = CompileConfig(fullgraph=False)
            extra["compile_config"]._compile_all_devices = True
        settings = GenerationConfig(
            do_sample=True,
            temperature=TEMPERATURE,
            top_k=0,
            top_p=1.0,
            max_new_tokens=w.tokens,
            eos_token_id=None,
            pad_token_id=0,
            **extra,
        )
        part = self._part(slice(None), self.inputs["input_ids"])
        with torch.no_grad():
            out = self.model.generate(**part, generation_config=settings)
        assert out.shape[1] == w.prompt_tokens + w.tokens, out.shape

    def _logps(self, rows: slice, head: str):
        """(log-probs, entropies) of the given responses, [rows, T]; only their positions reach the
        head: TRL's fused one, or logits and a log-softmax."""
        ids = torch.cat([self.inputs["input_ids"][rows], self.tokens[rows]], 1)
        part, T = self._part(rows, ids), self.workload.tokens
        if head == "fused":
            labels = ids.clone()
            labels[:, :-T] = -100
            out = self.model(**part, labels=labels, fused_lm_head=True)
            return out.log_probs[:, -T:], out.entropy[:, -T:]
        logits = self.model(**part, logits_to_keep=T + 1).logits[:, :-1] / TEMPERATURE
        logp = logits.log_softmax(-1)
        chosen = logp.gather(-1, self.tokens[rows][..., None])[..., 0]
        with torch.no_grad():
            entropy = -(logp.exp() * logp).sum(-1)
        return chosen, entropy

    def policy_step(self, micro: int = 0, head: str = "") -> None:
        """One update over all sequences, gradients added over parts of `micro` sequences."""
        micro, head = micro or self.micro, head or self.head
        self._set_head(head)
        if self.compiled is not None:
            self.language.forward = self.compiled
        total = self.tokens.numel()
        self.optimizer.zero_grad(set_to_none=True)
        for start in range(0, len(self.tokens), micro):
            rows = slice(start, start + micro)
            logp, _ = self._logps(rows, head)
            ratio, adv = torch.exp(logp - logp.detach()), self.adv[rows]
            loss = -torch.min(ratio * adv, ratio.clamp(1 - CLIP, 1 + CLIP) * adv).sum() / total
            loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()

    head = "fused"

    def _set_head(self, head: str) -> None:
        fused = "forward" in vars(self.model)
        if head == "fused" and not fused:
            from trl.trainer.utils import add_fused_lm_head

            add_fused_lm_head(self.model, TEMPERATURE, outputs=("log_probs", "entropy"))
        elif head != "fused" and fused:
            del self.model.forward

    def tune(self, sizes: tuple[int, ...], heads=("fused", "plain")) -> dict:
        """The best number of sequences at a time with the first head, then the best head."""
        found: dict[tuple[int, str], float] = {}

        def best(settings: list[tuple[int, str]]) -> tuple[int, str]:
            for setting in settings:
                self.policy_step(*setting)
                found[setting] = seconds(functools.partial(self.policy_step, *setting))
            return min(found, key=found.get)

        micro, _ = best([(n, heads[0]) for n in sizes])
        self.micro, self.head = best([(micro, head) for head in heads[1:]])
        tried = {str(setting): round(took, 4) for setting, took in found.items()}
        return {"microbatch": self.micro, "head": self.head, "tried": tried}

    def logps(self, out: str) -> dict:
        self._set_head("plain")
        with torch.no_grad():
            parts = [
                self._logps(slice(i, i + 16), "plain")[0].numpy()
                for i in range(0, len(self.tokens), 16)
            ]
        np.save(out, np.concatenate(parts))
        return {}

    def time(self, phase: str, compiled: bool = False) -> dict:
        """Seconds of a rollout or a policy step. `compiled` rollouts use a static cache."""
        call = functools.partial(self.rollout, compiled) if phase == "rollout" else self.policy_step
        return {"seconds": seconds(call)}


if __name__ == "__main__":
    side = Side()
    serve({name: getattr(side, name) for name in ("hello", "prepare", "tune", "logps", "time")})
