"""g2rpo_jax: reinforcement learning of vision-language models with G2RPO, in JAX."""
