"""RMDNet in plain PyTorch, without a line of rmdnet_jax: what its numbers and its speed are held against."""
