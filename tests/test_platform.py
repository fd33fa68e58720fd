"""Back ends: found without starting them, and never against the user's own settings."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from g2rpo_jax import platform


@pytest.fixture
def bare(monkeypatch):
    """No setting of the user's, and none left behind."""
    set_on_neuron = [key for key, _ in platform.BACKENDS["neuron"].environment]
    for name in {*set_on_neuron, "JAX_PLATFORMS", "XLA_FLAGS"}:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(platform.glob, "glob", lambda pattern: [])
    return monkeypatch


def test_device_files_decide(bare):
    assert platform.detect() == "cpu"
    bare.setattr(platform.glob, "glob", lambda p: ["x"] if "nvidia" in p else [])
    assert platform.detect() == "gpu"
    bare.setenv("JAX_PLATFORMS", "cuda,cpu")
    assert platform.detect() == "gpu"


def test_a_cpu_run_divides_the_host_and_compiles_quickly(bare):
    platform.prepare(host_devices=2)
    assert "device_count=2" in os.environ["XLA_FLAGS"]
    assert "optimization_level=1" in os.environ["XLA_FLAGS"]


@pytest.mark.skipif(sys.platform != "linux", reason="the setting is glibc's")
@pytest.mark.parametrize(
    ("variables", "seen"),
    [
        ({}, "glibc.malloc.hugetlb=1"),
        ({"GLIBC_TUNABLES": ""}, ""),
        ({"JAX_PLATFORMS": "tpu"}, None),
    ],
)
def test_a_cpu_program_starts_again_with_large_pages(bare, variables, seen, tmp_path):
    bare.delenv("GLIBC_TUNABLES", raising=False)
    script = tmp_path / "a script.py"
    script.write_text(
        "import os, sys\nfrom g2rpo_jax import platform\nplatform.use_large_pages()\n"
        "print([sys.argv[1:], sys.flags.isolated, os.environ.get('GLIBC_TUNABLES')])\n"
    )
    command = [sys.executable, "-I", str(script), "--a=b c", "d"]
    variables = {"JAX_PLATFORMS": "cpu"} | variables
    done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True)
    assert done.stdout == f"{[['--a=b c', 'd'], 1, seen]}\n", done.stderr


def test_the_users_settings_stay(bare):
    bare.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=5")
    bare.setenv("JAX_PLATFORMS", "neuron")
    bare.setenv("NEURON_CC_FLAGS", "-O2")
    bare.setenv("NEURON_COMPILE_CACHE_URL", "s3://mine")
    bare.setattr(platform, "neuron_packages", list)
    platform.prepare(host_devices=2)
    assert "device_count=5" in os.environ["XLA_FLAGS"] and "=2" not in os.environ["XLA_FLAGS"]
    assert os.environ["NEURON_CC_FLAGS"] == "-O2"
    assert os.environ["NEURON_COMPILE_CACHE_URL"] == "s3://mine"
    assert os.environ["JAX_PLATFORMS"] == "neuron"


def test_neuron_is_set_up_before_jax_starts(bare):
    bare.setattr(platform.glob, "glob", lambda p: ["/dev/neuron0"] if "neuron" in p else [])
    bare.setattr(platform, "neuron_packages", list)
    bare.setenv("HOME", "/home/someone")
    bare.setenv("PATH", "/nowhere")
    platform.prepare()
    assert os.environ["JAX_PLATFORMS"] == "neuron,cpu"  # a CPU device beside it
    assert os.environ["JAX_DEFAULT_PRNG_IMPL"] == "rbg"
    assert "--auto-cast=none" in os.environ["NEURON_CC_FLAGS"]
    assert os.environ["NEURON_COMPILE_CACHE_URL"] == "/home/someone/.cache/neuron-compile-cache"
    assert os.environ["PATH"].split(os.pathsep)[0] == str(Path(sys.executable).parent)


def test_neuron_without_its_packages_says_which_and_how_to_install_them(bare):
    bare.setattr(platform.glob, "glob", lambda p: ["/dev/neuron0"] if "neuron" in p else [])
    with pytest.raises(ValueError, match=r"/dev/neuron0.*libneuronxla is not installed") as caught:
        platform.prepare()
    assert "pip install -e '.[neuron]' --extra-index-url" in str(caught.value)
    assert "JAX_PLATFORMS" not in os.environ
    bare.setattr(platform.glob, "glob", lambda p: [])
    bare.setenv("JAX_PLATFORMS", "neuron")
    with pytest.raises(ValueError, match="JAX_PLATFORMS asks for neuron"):
        platform.prepare()


def test_placeholder_packages_are_told_from_real_ones(tmp_path, monkeypatch):
    def install(package, version, module, text):
        (tmp_path / module).mkdir()
        (tmp_path / module / "__init__.py").touch()
        info = tmp_path / f"{package.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n\n{text}\n"
        )

    monkeypatch.syspath_prepend(tmp_path)
    install("jax-neuronx", "0.10.0", "jax_neuronx", "JAX on Neuron.")
    install("libneuronxla", "1.0", "libneuronxla", "WRONG PACKAGE. Please install elsewhere.")
    install("neuronx-cc", "1.0", "neuronx-cc", "No module of the right name.")
    wrong = platform.neuron_packages()
    assert len(wrong) == 2 and all("placeholder" in sentence for sentence in wrong)
    assert "libneuronxla 1.0" in wrong[0] and "neuronx-cc 1.0" in wrong[1]


def test_programs_that_are_only_looked_at_get_virtual_devices(bare):
    bare.setattr(platform.glob, "glob", lambda p: ["/dev/neuron0"] if "neuron" in p else [])
    platform.pretend(32)
    assert os.environ["JAX_PLATFORMS"] == "cpu" and "count=32" in os.environ["XLA_FLAGS"]


def test_every_back_end_knows_its_embedding_gradient():
    assert {b.embedding_gradient for b in platform.BACKENDS.values()} == {"scatter", "onehot"}
    assert not platform.BACKENDS["neuron"].donate


@pytest.fixture
def cache(bare, tmp_path):
    """Nobody's programs are kept yet; JAX's own settings come back."""
    bare.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    bare.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    bare.setenv("XLA_FLAGS", "")
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    yield bare
    for name, value in before.items():
        jax.config.update(name, value)


def test_compiled_programs_are_kept_in_the_users_cache(cache, tmp_path):
    folder = platform.keep_programs()
    assert folder.is_dir() and folder.parent == tmp_path / "cache" / "g2rpo_jax"
    assert jax.config.jax_compilation_cache_dir == str(folder)


def test_nothing_is_kept_where_several_devices_of_cpus_add_up(cache):
    assert platform.keep_programs(processes=2) is None
    cache.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=2")
    assert platform.keep_programs() is None
    cache.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=1")
    assert platform.keep_programs() is not None


def test_another_kind_of_processor_keeps_its_own_programs(cache):
    here = platform.keep_programs()
    read = Path.read_text
    cache.setattr(Path, "read_text", lambda p: "flags : sse2\n" if "cpuinfo" in str(p) else read(p))
    assert platform.keep_programs() != here


def test_the_user_names_the_folder_or_turns_it_off(cache, tmp_path):
    before = jax.config.jax_compilation_cache_dir
    cache.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "mine"))
    assert platform.keep_programs() == tmp_path / "mine"
    cache.setenv("JAX_COMPILATION_CACHE_DIR", "")
    assert platform.keep_programs() is None
    assert jax.config.jax_compilation_cache_dir == before  # JAX has read the variable by itself


def test_neither_neuron_nor_a_closed_home_keeps_programs(cache, tmp_path):
    cache.setenv("JAX_PLATFORMS", "neuron")
    assert platform.keep_programs() is None
    cache.setenv("JAX_PLATFORMS", "cpu")
    (tmp_path / "file").touch()
    cache.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert platform.keep_programs() is None
