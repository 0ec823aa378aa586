"""Measurements beside other software: a PyTorch reference of RMDNet, and speed against it."""
