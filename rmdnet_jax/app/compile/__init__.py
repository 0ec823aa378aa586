"""What an experiment takes of chips that are not here: `rmdnet compile`."""
