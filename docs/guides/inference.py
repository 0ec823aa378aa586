"""Train a student, save it, load it elsewhere, and predict."""

import numpy as np
from sklearn.datasets import load_digits

import rmdnet_jax as rmd

# A tiny network for seconds; one label in five is wrong. "digits" alone takes a minute or more.
short = {"noise.rate": 0.2, "learning_rate": 0.1, "weight": 3, "epochs": 40, "controls": ()}
run = rmd.train("digits:quick", "runs/guide", overrides=short)
print(run)

# A new program needs the file only: no data set, no config.
student = rmd.load("runs/guide/student.safetensors")
print("classes:", " ".join(student.classes))

# Images are uint8, [n, height, width, channel], or [n, height, width] for one channel.
digits = load_digits()
images = np.round(digits.images * 255 / 16).astype(np.uint8)

probabilities = student.predict(images)  # float32 [n, class], rows of sum 1
found = probabilities.argmax(axis=1)
print(f"accuracy on all digits: {100 * np.mean(found == digits.target):.1f} %")
print("first image:", student.classes[found[0]], f"with probability {probabilities[0].max():.2f}")

features = student.features(images)  # float32 [n, dim], for a search or a plot
print("features:", features.shape)
