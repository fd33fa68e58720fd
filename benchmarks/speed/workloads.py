"""What is timed: model sizes, prompts, FLOP counts. Plain Python and NumPy: every peer reads it."""

import dataclasses

import numpy as np

IMAGE, VIDEO, START, END = 1, 2, 3, 4  # special tokens; text is drawn from the ids above them
PATCH, MERGE = 16, 2  # pixels a side; patches a side that become one image token
LR, TEMPERATURE, CLIP = 1e-4, 1.0, 0.2


@dataclasses.dataclass(frozen=True)
class Workload:
    """One model and one batch of prompts, all of the same length; responses never end early.

    Attributes:
      prompts, responses, tokens: P, G and T.
      side: pixels of each prompt's one square image. text: its text tokens.
      hidden, layers, heads, key_heads, head_dim, mlp, vocabulary: of the language model.
    """

    name: str
    prompts: int
    responses: int
    tokens: int
    side: int
    text: int
    hidden: int
    layers: int
    heads: int
    key_heads: int
    head_dim: int
    mlp: int
    vocabulary: int
    vision_depth: int = 3
    vision_hidden: int = 64
    vision_heads: int = 4
    vision_mlp: int = 256

    @property
    def patches(self) -> int:
        """N: patches of a prompt's image."""
        return (self.side // PATCH) ** 2

    @property
    def prompt_tokens(self) -> int:
        """S: text, merged image tokens, and the marks around them."""
        return self.text + self.patches // MERGE**2 + 2

    def config(self) -> dict:
        """The model's config.json."""
        rope = {
            "rope_type": "default",
            "rope_theta": 5e6,
            "mrope_section": _sections(self.head_dim // 2),
            "mrope_interleaved": True,
        }
        return {
            "architectures": ["Qwen3VLForConditionalGeneration"],
            "model_type": "qwen3_vl",
            "image_token_id": IMAGE,
            "video_token_id": VIDEO,
            "vision_start_token_id": START,
            "vision_end_token_id": END,
            "tie_word_embeddings": True,
            "text_config": {
                "model_type": "qwen3_vl_text",
                "vocab_size": self.vocabulary,
                "hidden_size": self.hidden,
                "intermediate_size": self.mlp,
                "num_hidden_layers": self.layers,
                "num_attention_heads": self.heads,
                "num_key_value_heads": self.key_heads,
                "head_dim": self.head_dim,
                "max_position_embeddings": 32768,
                "rms_norm_eps": 1e-6,
                "tie_word_embeddings": True,
                "rope_parameters": rope,
            },
            "vision_config": {
                "model_type": "qwen3_vl_vision",
                "depth": self.vision_depth,
                "hidden_size": self.vision_hidden,
                "intermediate_size": self.vision_mlp,
                "num_heads": self.vision_heads,
                "out_hidden_size": self.hidden,
                "patch_size": PATCH,
                "spatial_merge_size": MERGE,
                "temporal_patch_size": 2,
                "num_position_embeddings": 256,
                "deepstack_visual_indexes": list(range(self.vision_depth)),
            },
        }

    def prompts_of(self, seed: int = 0) -> list["Prompt"]:
        """P prompts: image first, then text; token ids and pixels are noise."""
        rng = np.random.default_rng(seed)
        grid = self.side // PATCH
        found = []
        for _ in range(self.prompts):
            words = rng.integers(END + 1, self.vocabulary, self.text)
            pixels = rng.standard_normal((self.patches, 3 * 2 * PATCH**2)).astype(np.float32)
            ids = np.concatenate([[START], [IMAGE] * (self.patches // MERGE**2), [END], words])
            found.append(Prompt(ids.astype(np.int32), pixels, np.array([[1, grid, grid]])))
        return found

    def responses_of(self, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """Given responses int32 [P, G, T], and their advantages float32 [P, G]: for timing updates
        alone."""
        rng = np.random.default_rng(seed)
        shape = (self.prompts, self.responses)
        tokens = rng.integers(END + 1, self.vocabulary, (*shape, self.tokens)).astype(np.int32)
        return tokens, rng.standard_normal(shape).astype(np.float32)

    def forward_flops(self, shared: bool) -> float:
        """Products of one forward pass over prompts and responses, a multiply-add counted as two;
        causal attention as a triangle.

        Args:
          shared: prompts and images once, not once for each response.
        """
        S, T, G, D = self.prompt_tokens, self.tokens, self.responses, self.hidden
        copies = 1 if shared else G
        A, B = self.heads * self.head_dim, self.key_heads * self.head_dim
        linear = 2 * (2 * D * A + 2 * D * B + 3 * D * self.mlp)
        attended = S * S / 2 * copies + G * (T * S + T * T / 2)
        layers = self.layers * (linear * (copies * S + G * T) + 4 * A * attended)
        head = 2 * D * self.vocabulary * G * T
        return self.prompts * (layers + head + copies * self._vision_flops())

    def _vision_flops(self) -> float:
        N, D, wide = self.patches, self.vision_hidden, self.vision_hidden * MERGE**2
        block = 2 * N * (4 * D * D + 2 * D * self.vision_mlp) + 4 * N * N * D
        merge = 2 * N / MERGE**2 * (wide * wide + wide * self.hidden)
        patch = 2 * N * 3 * 2 * PATCH**2 * D
        return patch + self.vision_depth * block + (1 + self.vision_depth) * merge


@dataclasses.dataclass(frozen=True)
class Prompt:
    """As the processor gives it: int32 [s], float32 [n, C], int [images, 3]."""

    input_ids: np.ndarray
    pixel_values: np.ndarray
    image_grid_thw: np.ndarray


def _sections(pairs: int) -> list[int]:
    """How pairs of features are shared out over time, height and width: as 24, 20, 20 of 64."""
    side = pairs * 20 // 64
    return [pairs - 2 * side, side, side]


SMALL = dict(hidden=128, layers=4, heads=4, key_heads=2, head_dim=32, mlp=384, vocabulary=512)
LARGE = dict(hidden=512, layers=8, heads=8, key_heads=4, head_dim=64, mlp=1536, vocabulary=4096)
WORKLOADS = {
    "W1": Workload("W1", 16, 8, 64, side=96, text=40, **SMALL),
    "W2": Workload("W2", 16, 8, 32, side=256, text=200, **SMALL),
    "W3": Workload("W3", 4, 8, 64, side=128, text=110, **LARGE),
}
