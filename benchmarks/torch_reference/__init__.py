"""RMDNet in plain PyTorch, without a line of rmdnet_jax: what it is held against."""
