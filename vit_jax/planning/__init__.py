"""What a run needs before it is paid for: the parts of `python -m vit_jax.plan`."""
