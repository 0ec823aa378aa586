"""Find wrong labels from embeddings, in seconds and without training. Guide: label-errors.md."""

import numpy as np
from sklearn.datasets import load_digits

import rmdnet_jax as rmd

# Any model's embeddings do. Here the pixels of 1,797 small images stand in for them.
digits = load_digits()
names = np.array(["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"])

# Three in ten labels are moved to the next class, as a careless annotator might.
generator = np.random.default_rng(0)
wrong = generator.random(len(digits.target)) < 0.3
labels = names[(digits.target + wrong) % 10]

found = rmd.find_label_errors(digits.data, labels)

print(found)
print(found.table.head(8).to_string(float_format="%.3f"))
suspects = found.table.query("given != suggested")
print(f"{len(suspects)} suspects, {wrong[suspects['index']].mean():.1%} of them are wrong indeed")
print(f"{wrong[suspects['index']].sum() / wrong.sum():.1%} of all {wrong.sum()} wrong labels found")
before, after = (np.mean(x == names[digits.target]) for x in (labels, found.labels))
print(f"right labels: {before:.1%} as given, {after:.1%} corrected")
