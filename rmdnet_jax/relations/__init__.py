"""Relations between examples: losses that match them, neighbours, graphs, label propagation."""
