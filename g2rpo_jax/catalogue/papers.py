"""Published methods: PAPERS."""

from g2rpo_jax.catalogue.around import FOR_REWARDS, FOR_SAMPLING, FOR_SYSTEMS
from g2rpo_jax.catalogue.estimators import FOR_ESTIMATORS
from g2rpo_jax.catalogue.losses import FOR_LOSSES

PAPERS = FOR_ESTIMATORS + FOR_LOSSES + FOR_SAMPLING + FOR_REWARDS + FOR_SYSTEMS
