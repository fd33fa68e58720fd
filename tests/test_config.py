"""The configuration: every field checked, typos named, the variants hold the published numbers."""

import importlib.util
from pathlib import Path

import pytest

from g2rpo_jax.config import RunConfig, SftConfig, defaults, resolve

ROOT = Path(__file__).parents[1]


def variant(name: str, file: str = "onethinker"):
    spec = importlib.util.spec_from_file_location(file, ROOT / "configs" / f"{file}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(name)


def test_defaults_go_round():
    assert resolve(defaults()) == RunConfig()
    assert resolve(defaults(SftConfig), SftConfig) == SftConfig()


def test_a_misspelt_assignment_fails_on_its_own_line():
    config = defaults()
    with pytest.raises(AttributeError, match="lr"):
        config.optim.lrr = 1.0


def test_an_unknown_field_names_the_nearest():
    config = defaults()
    with config.unlocked():
        config.optim.warmup_step = 3
    with pytest.raises(ValueError, match="optim.warmup_step.*did you mean 'warmup_steps'"):
        resolve(config)


def test_a_missing_field_is_named():
    config = defaults()
    with config.unlocked():
        del config.optim.lr
    with pytest.raises(ValueError, match="missing field optim.lr"):
        resolve(config)


def test_a_wrong_type_is_refused_at_once():
    config = defaults()
    with pytest.raises(TypeError):
        config.optim.lr = "fast"
    with config.unlocked(), config.ignore_type():
        config.batch.prompts = "many"
    with pytest.raises(ValueError, match="batch.prompts='many' must be of type int"):
        resolve(config)


def test_an_integer_serves_where_a_float_is_asked():
    config = defaults()
    config.optim.lr = 1
    assert resolve(config).optim.lr == 1.0


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("optim.schedule", "cosin", "optim.schedule='cosin'.*did you mean 'cosine'"),
        ("advantage.name", "g2rp", "unknown advantage estimator 'g2rp'; did you mean 'g2rpo'"),
        ("objective.aggregation", "token", "unknown aggregation 'token'.*token_mean"),
        ("shaping.entropy_estimator", "exat", "did you mean 'exact'"),
        ("batch.microbatches", 7, "batch.prompts=128 does not divide"),
        ("decode_chunk", 33, "max_tokens=4096 is not a multiple of decode_chunk=33"),
        ("optim.clip_norm", 0.0, "optim.clip_norm=0.0 must be above 0"),
        ("filter.low", 2.0, "filter.low=2.0 must be below filter.high"),
        ("tasks.ocr.length", (4, 3, 2, 1), "must be four rising token counts"),
        ("tasks.ocr.entropy", (0.9, 0.1), "must be \\(minimum, maximum\\)"),
        ("data.prompt_tokens", (64, 32), "data.prompt_tokens=.* must be a rising list"),
        ("mesh.data", 0, "mesh data, fsdp, tensor"),
        ("model.remat", "some", "model.remat='some' is none of"),
    ],
)
def test_a_value_out_of_range_names_its_field(field, value, message):
    config = defaults()
    *sections, last = field.split(".")
    section = config
    for name in sections:
        section = section[name]
    section[last] = value
    with pytest.raises(ValueError, match=message):
        resolve(config)


def test_paper_holds_the_papers_numbers():
    c = resolve(variant("paper"))
    assert (c.optim.lr, c.optim.weight_decay, c.optim.clip_norm) == (2e-6, 0.01, 1.0)
    assert (c.batch.prompts, c.batch.minibatches, c.responses, c.epochs) == (128, 1, 8, 1)
    assert (c.max_tokens, c.sampling.temperature, c.sampling.top_p) == (4096, 1.0, 1.0)
    assert (c.advantage.name, c.objective.aggregation) == ("g2rpo", "sequence_mean")
    assert c.objective.kl_coefficient == 0 and c.reward.format_weight == 0.1
    assert (c.filter.enabled, c.filter.low, c.filter.high) == (True, 0.01, 0.99)


def test_release_holds_the_releases_numbers():
    c = resolve(variant("release"))
    assert (c.batch.prompts, c.batch.minibatches) == (512, 4)  # 4 updates of 128 prompts
    assert (c.objective.clip_low, c.objective.clip_high, c.objective.dual_clip) == (0.2, 0.3, 3.0)
    assert (c.objective.aggregation, c.advantage.name) == ("token_mean", "g2rpo_release")
    assert (c.advantage_task, c.shaping.entropy_estimator) == ("problem_type", "sampled")
    assert (c.shaping.entropy_weight, c.shaping.length_weight) == (0.02, 0.0)
    assert all(task.entropy == (0.2, 0.6) for task in c.tasks.values())
    assert (c.data.min_pixels, c.data.max_pixels) == (3136, 1048576)
    assert c.data.prompt_tokens[-1] == 16384


def test_tiny_and_cold_start_resolve():
    assert resolve(variant("tiny")).model.directory == "assets/tiny"
    spec = importlib.util.spec_from_file_location("cold", ROOT / "configs" / "cold_start.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert resolve(module.get_config(), SftConfig).directory == "assets/tiny"


def test_an_unknown_variant_lists_the_known_ones():
    with pytest.raises(ValueError, match="no variant 'papr'; it has paper, release, tiny"):
        variant("papr")


def test_a_template_and_the_rewards_agree_on_the_thinking_tag():
    c = defaults()
    c.data.template = "onethinker"
    with pytest.raises(ValueError, match="set reward.think_tag=think"):
        resolve(c)
    c.reward.think_tag = "think"
    assert resolve(c).reward.think_tag == "think"
