"""The shape of a Qwen3-VL model, from and to Hugging Face's `config.json`."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

DENSE, MOE = "qwen3_vl", "qwen3_vl_moe"  # Hugging Face's model_type
ARCHITECTURES = {
    DENSE: "Qwen3VLForConditionalGeneration",
    MOE: "Qwen3VLMoeForConditionalGeneration",
}


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """The language model. Names are Hugging Face's, defaults transformers 5.23's.

    With num_experts above 0 every layer has that many experts of moe_intermediate_size in place of
    its MLP, of which a token takes num_experts_per_tok.
    """

    vocab_size: int = 151936
    hidden_size: int = 4096
    intermediate_size: int = 22016
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int = 32
    head_dim: int = 128
    hidden_act: str = "silu"
    max_position_embeddings: int = 128000
    initializer_range: float = 0.02
    rms_norm_eps: float = 1e-6
    rope_theta: float = 500000.0
    mrope_section: tuple[int, int, int] = (24, 20, 20)
    num_experts: int = 0
    num_experts_per_tok: int = 8
    moe_intermediate_size: int = 768

    def __post_init__(self) -> None:
        _require(
            0 < self.num_experts_per_tok <= (self.num_experts or self.num_experts_per_tok),
            f"text_config.num_experts_per_tok={self.num_experts_per_tok} of "
            f"num_experts={self.num_experts}: a token takes at least one, at most all",
        )
        _require(
            self.num_attention_heads % self.num_key_value_heads == 0,
            f"text_config.num_attention_heads={self.num_attention_heads} does not divide into "
            f"num_key_value_heads={self.num_key_value_heads}: every key head serves equally many "
            "query heads",
        )
        _require(
            self.head_dim % 2 == 0 and sum(self.mrope_section) == self.head_dim // 2,
            f"mrope_section={list(self.mrope_section)} must add up to head_dim / 2 = "
            f"{self.head_dim / 2:g}: each pair of features turns with one of time, height, width",
        )


@dataclasses.dataclass(frozen=True)
class VisionConfig:
    """The vision tower. Field names are Hugging Face's."""

    depth: int = 27
    hidden_size: int = 1152
    intermediate_size: int = 4304
    num_heads: int = 16
    in_channels: int = 3
    patch_size: int = 16
    spatial_merge_size: int = 2
    temporal_patch_size: int = 2
    out_hidden_size: int = 3584
    num_position_embeddings: int = 2304
    deepstack_visual_indexes: tuple[int, ...] = (8, 16, 24)
    hidden_act: str = "gelu_pytorch_tanh"
    initializer_range: float = 0.02
    rope_theta: float = 10000.0

    def __post_init__(self) -> None:
        _require(
            self.hidden_size % self.num_heads == 0 and self.head_dim % 4 == 0,
            f"vision_config.hidden_size={self.hidden_size} over num_heads={self.num_heads} must be "
            "a multiple of 4: a head's features turn in pairs, half with the row, half with the "
            "column",
        )
        _require(
            self.grid_side**2 == self.num_position_embeddings,
            f"vision_config.num_position_embeddings={self.num_position_embeddings} is no square: "
            "the learned positions are a square grid",
        )
        _require(
            all(0 <= index < self.depth for index in self.deepstack_visual_indexes)
            and len(set(self.deepstack_visual_indexes)) == len(self.deepstack_visual_indexes),
            f"vision_config.deepstack_visual_indexes={list(self.deepstack_visual_indexes)} must be "
            f"different layers of the tower's {self.depth}",
        )

    @property
    def head_dim(self) -> int:
        """Features of one attention head."""
        return self.hidden_size // self.num_heads

    @property
    def grid_side(self) -> int:
        """Side of the square grid of learned position embeddings."""
        return round(self.num_position_embeddings**0.5)

    @property
    def merge(self) -> int:
        """Patches that become one image token (4 for a 2 x 2 merge)."""
        return self.spatial_merge_size**2

    @property
    def patch_features(self) -> int:
        """C: numbers in one patch, as the processor lays them out."""
        return self.in_channels * self.temporal_patch_size * self.patch_size**2


@dataclasses.dataclass(frozen=True)
class Qwen3VLConfig:
    """A whole model. Hashable, so it may be a static argument of `jax.jit`."""

    text: TextConfig = dataclasses.field(default_factory=TextConfig)
    vision: VisionConfig = dataclasses.field(default_factory=VisionConfig)
    image_token_id: int = 151655
    video_token_id: int = 151656
    vision_start_token_id: int = 151652
    vision_end_token_id: int = 151653
    tie_word_embeddings: bool = False

    def __post_init__(self) -> None:
        _require(
            self.vision.out_hidden_size == self.text.hidden_size,
            f"vision_config.out_hidden_size={self.vision.out_hidden_size} differs from "
            f"text_config.hidden_size={self.text.hidden_size}: images stand among text tokens",
        )
        _require(
            len(self.vision.deepstack_visual_indexes) <= self.text.num_hidden_layers,
            f"{len(self.vision.deepstack_visual_indexes)} DeepStack features need as many language "
            f"layers, and there are {self.text.num_hidden_layers}",
        )

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> "Qwen3VLConfig":
        """Reads a parsed `config.json`, of transformers 4.57 or of 5.x.

        4.57 writes `rope_scaling` beside `rope_theta`; 5.x writes one `rope_parameters`.
        Raises:
          ValueError: if a value asks for something that this model does not do, or does not fit.
        """
        text, vision = dict(raw.get("text_config") or {}), dict(raw.get("vision_config") or {})
        rope = dict(text.get("rope_scaling") or {}) | dict(text.get("rope_parameters") or {})
        kind = rope.get("rope_type", rope.get("type", "default"))
        _require(
            kind in ("default", "mrope"),
            f"text_config: rope type {kind!r} is not implemented; only 'default' (M-RoPE) is",
        )
        _require(
            rope.get("mrope_interleaved", True) is not False,
            "text_config: mrope_interleaved=false is Qwen2-VL's layout; Qwen3-VL interleaves",
        )
        _require(
            not text.get("attention_bias", False),
            "text_config: attention_bias=true is not implemented; no Qwen3-VL release has it",
        )
        if raw.get("model_type") == MOE:
            text.setdefault("num_experts", text.get("num_local_experts"))
            _require(
                bool(text["num_experts"]) and text.get("moe_intermediate_size"),
                f"text_config of model_type {MOE!r} must have num_experts and "
                "moe_intermediate_size",
            )
            _require(
                not text.get("mlp_only_layers")
                and text.get("decoder_sparse_step", 1) == 1
                and text.get("norm_topk_prob", True) is not False,
                "text_config: every layer must have experts, whose weights add up to one "
                "(mlp_only_layers=[], decoder_sparse_step=1, norm_topk_prob=true); other mixtures "
                "are not implemented",
            )
        else:
            text.pop("num_experts", None)
        if "rope_theta" in rope:
            text["rope_theta"] = rope["rope_theta"]
        if "mrope_section" in rope:
            text["mrope_section"] = rope["mrope_section"]
        if text.get("num_key_value_heads") is None:
            text["num_key_value_heads"] = text.get("num_attention_heads", 32)
        vision_rope = dict(vision.get("rope_parameters") or {})
        if "rope_theta" in vision_rope:
            vision["rope_theta"] = vision_rope["rope_theta"]
        own = _known(cls, raw, skip=("text", "vision"))
        if "tie_word_embeddings" not in raw and "tie_word_embeddings" in text:
            own["tie_word_embeddings"] = bool(text["tie_word_embeddings"])
        return cls(
            text=TextConfig(**_known(TextConfig, text)),
            vision=VisionConfig(**_known(VisionConfig, vision)),
            **own,
        )

    def to_dict(self) -> dict[str, Any]:
        """What `config.json` says, in the forms of both transformers 4.57 and 5.x."""
        text = dataclasses.asdict(self.text)
        sections = list(text.pop("mrope_section"))
        rope = {"rope_type": "default", "mrope_section": sections, "mrope_interleaved": True}
        text |= {
            "attention_bias": False,
            "rope_scaling": rope,
            "rope_parameters": rope | {"rope_theta": self.text.rope_theta},
            "tie_word_embeddings": self.tie_word_embeddings,
        }
        kind = MOE if self.text.num_experts else DENSE
        if self.text.num_experts:
            text |= {"decoder_sparse_step": 1, "mlp_only_layers": [], "norm_topk_prob": True}
        else:
            for name in ("num_experts", "num_experts_per_tok", "moe_intermediate_size"):
                text.pop(name)
        text["model_type"] = f"{kind}_text"
        vision = dataclasses.asdict(self.vision)
        vision["deepstack_visual_indexes"] = list(self.vision.deepstack_visual_indexes)
        vision["rope_parameters"] = {"rope_type": "axial", "rope_theta": vision.pop("rope_theta")}
        own = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in ("text", "vision")
        }
        return {
            "architectures": [ARCHITECTURES[kind]],
            "model_type": kind,
            "text_config": text,
            "vision_config": vision | {"model_type": f"{kind}_vision"},
            **own,
        }

    @classmethod
    def read(cls, directory: str | Path) -> "Qwen3VLConfig":
        """Reads `directory/config.json`; an error names the file."""
        path = Path(directory) / "config.json"
        raw = read_json(path)
        try:
            return cls.from_dict(raw)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: {error}") from error


def require_directory(directory: Path) -> None:
    """Raises ValueError, with the command that fetches the model, unless the directory is there."""
    if not directory.is_dir():
        name = directory.name if directory.name.startswith("Qwen3-VL") else "Qwen3-VL-2B-Instruct"
        raise ValueError(
            f"{directory} is not a directory: expected a Hugging Face model directory, e.g. from "
            f"`hf download Qwen/{name} --local-dir {directory}`"
        )


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file, or a ValueError that names the file and the trouble."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(
            f"{path} does not exist: a model directory holds config.json, *.safetensors, and the "
            "tokenizer and processor files, as Hugging Face lays them out"
        ) from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not readable JSON: {error}") from error
    if not isinstance(raw, dict):
        raise ValueError(f"{path} holds a JSON {type(raw).__name__}, not an object")
    return raw


def _known(cls: type, raw: Mapping[str, Any], skip: tuple[str, ...] = ()) -> dict[str, Any]:
    """The entries of `raw` that `cls` has fields for, lists made into tuples."""
    names = [field.name for field in dataclasses.fields(cls) if field.name not in skip]
    found = {name: raw[name] for name in names if raw.get(name) is not None}
    return {k: tuple(v) if isinstance(v, list) else v for k, v in found.items()}


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
