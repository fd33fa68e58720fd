"""TRL's GRPOTrainer on Qwen3-VL with images, one training step at a time."""

import json
import tempfile
import threading
from importlib.metadata import version
from pathlib import Path

import torch
from datasets import Dataset, Features, Image, Value
from speed.reward import even_words
from speed.worker import seconds, serve
from speed.workloads import CLIP, LR, TEMPERATURE, WORKLOADS, Workload
from transformers import (
    PreTrainedTokenizerFast,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    TrainerCallback,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from trl import GRPOConfig, GRPOTrainer


class LocalProcessor(Qwen3VLProcessor):
    """Without the video slot, which needs torchvision."""

    def check_argument_for_proper_class(self, argument_name, argument):
        if argument is not None:
            return super().check_argument_for_proper_class(argument_name, argument)
        return None


def processor_of(folder: Path) -> LocalProcessor:
    """The directory's tokenizer, template and picture settings."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"),
        eos_token="<|never|>",
        pad_token="<|endoftext|>",
        padding_side="left",
    )
    pictures = Qwen2VLImageProcessorPil.from_pretrained(str(folder))
    template = (folder / "chat_template.jinja").read_text()
    return LocalProcessor(pictures, tokenizer, None, chat_template=template)


def reward(completions, **_) -> list[float]:
    """The same score as on every side."""
    return [even_words(completion[0]["content"]) for completion in completions]


class Gate(TrainerCallback):
    """Lets one optimiser step through at a time."""

    def __init__(self):
        self.go, self.done, self.stop, self.error = (
            threading.Semaphore(0),
            threading.Semaphore(0),
            False,
            None,
        )

    def on_step_begin(self, args, state, control, **_):
        self.go.acquire()
        if self.stop:
            raise SystemExit

    def on_step_end(self, args, state, control, **_):
        self.done.release()


class Side:
    """The worker's state: a trainer that waits before its next step."""

    gate: Gate | None = None

    def hello(self) -> dict:
        return {"versions": {name: version(name) for name in ("torch", "transformers", "trl")}}

    def prepare(self, workload: str | dict, folder: str, micro: int = 0) -> dict:
        """A trainer whose step is the workload, `micro` sequences at a time (0: all)."""
        self.close()
        w = WORKLOADS[workload] if isinstance(workload, str) else Workload(**workload)
        path, total = Path(folder), w.prompts * w.responses
        micro = micro or total
        args = GRPOConfig(
            output_dir=tempfile.mkdtemp(prefix="trl"),
            max_steps=10_000,
            num_generations=w.responses,
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=total // micro,
            max_completion_length=w.tokens,
            learning_rate=LR,
            lr_scheduler_type="constant",
            weight_decay=0.01,
            temperature=TEMPERATURE,
            top_k=0,
            epsilon=CLIP,
            beta=0.0,
            bf16=False,
            use_cpu=True,
            gradient_checkpointing=False,
            logging_steps=1_000_000,
            save_strategy="no",
            report_to=[],
            dataloader_num_workers=0,
            disable_tqdm=True,
        )
        model = Qwen3VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
        self.gate = gate = Gate()
        trainer = GRPOTrainer(
            model=model,
            reward_funcs=reward,
            args=args,
            train_dataset=_dataset(path),
            processing_class=processor_of(path),
            callbacks=[gate],
        )
        sizes = []
        make = trainer._generate_and_score_completions

        def noted(inputs):
            out = make(inputs)
            sizes.append([list(out["prompt_ids"].shape), int(out["completion_mask"].sum())])
            return out

        trainer._generate_and_score_completions = noted
        self.expected = [[total, w.prompt_tokens], total * w.tokens]
        self.sizes, self.micro = sizes, micro

        def train():
            try:
                trainer.train()
            except SystemExit:
                pass
            except Exception as error:  # told by the next request
                gate.error = error
            gate.done.release()

        self.thread = threading.Thread(target=train, daemon=True)
        self.thread.start()
        return {"microbatch": micro}

    def time(self, phase: str) -> dict:
        """Seconds of a whole training step.

        Raises:
          Exception: what the trainer raised.
          ValueError: its prompts or responses are not of the workload's lengths.
        """
        assert phase == "rl_step", phase

        def step():
            self.gate.go.release()
            self.gate.done.acquire()

        took = seconds(step)
        if self.gate.error is not None:
            raise self.gate.error
        if self.sizes[-1] != self.expected:
            raise ValueError(f"sampled {self.sizes[-1]}, not {self.expected}")
        return {"seconds": took, "microbatch": self.micro}

    def close(self) -> None:
        """Ends the trainer."""
        if self.gate is not None:
            self.gate.stop = True
            self.gate.go.release()
            self.thread.join()
        self.gate = None


def _dataset(folder: Path) -> Dataset:
    rows = json.loads((folder / "rows.json").read_text())
    found = {
        "prompt": [
            [{"role": "user", "content": row["problem"].replace("<image>", "")}] for row in rows
        ],
    }
    features = {"prompt": [{"role": Value("string"), "content": Value("string")}]}
    if "images" in rows[0]:
        found["images"] = [[str(folder / name) for name in row["images"]] for row in rows]
        features["images"] = [Image()]
    return Dataset.from_dict(found, features=Features(features))


if __name__ == "__main__":
    side = Side()
    serve({name: getattr(side, name) for name in ("hello", "prepare", "time", "close")})
