"""RMDNet on JAX: relation modeling and distillation for learning with noisy labels."""

__version__ = "0.1.0"
