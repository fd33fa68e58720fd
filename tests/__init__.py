import os

# XLA spends most of the suite's time: its older emitters of fusions compile these small programs in
# a third of the time of the newer ones, and to the same numbers but for rounding.
QUICK_COMPILATION = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"


def environment() -> dict[str, str]:
    """Of the programs that tests start: as a user's, without the suite's eight virtual devices, but
    quickly compiled."""
    return os.environ | {"XLA_FLAGS": QUICK_COMPILATION}
