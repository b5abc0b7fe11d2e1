"""Memory, time and cost of a run before it starts: the parts of `vit_jax.plan`."""
