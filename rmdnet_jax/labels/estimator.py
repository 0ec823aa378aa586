"""Wrong labels in scikit-learn's manners: an estimator, which is cloned and put in pipelines.

It follows `LocalOutlierFactor`: what it finds, it finds in the examples that it is fitted on. So it
has `fit_predict` and a score as an attribute, larger is more normal, but no `score_samples`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import validate_data

from rmdnet_jax.labels.audit import find_label_errors


def _apart(estimator: LabelAuditor) -> bool:
    raise AttributeError(
        "a label is judged among those that it is given with: after fit(X, y), "
        "probability_ has the score of each, suspect_ the verdict, and labels_ the correction"
    )


class LabelAuditor(BaseEstimator):
    """Finds wrong labels among the examples that it is fitted on.

    The parameters are those of `find_label_errors`.

    Attributes have the order of the rows that were given.

    Attributes:
      labels_: [n], corrected.
      targets_: float32 [n, C], soft labels to train on.
      probability_: [n], how likely each given label is right: larger is more normal, as it is of
        `negative_outlier_factor_`.
      suspect_: bool [n], the labels that are changed; none where there is doubt.
      classes_: [C], sorted.
      noise_rate_: estimated share of wrong labels.
      noise_interval_: (low, high), of 95 %.
      transition_: [C, C], estimated P(given j | class i).
      in_doubt_: whether neither wrong labels are proved nor their absence.
      table_: a pandas DataFrame, a row an example, the most suspect first.
      found_: all of it, a `LabelErrors`.
      n_features_in_, feature_names_in_: as scikit-learn has them.

    Example:
      >>> import numpy as np
      >>> from sklearn.pipeline import make_pipeline
      >>> from sklearn.preprocessing import StandardScaler
      >>> import rmdnet_jax as rmd
      >>> animals = np.repeat(["cat", "dog", "owl"], 40)
      >>> noise = 0.1 * np.random.default_rng(0).normal(size=(120, 3))
      >>> features = np.repeat(np.eye(3), 40, axis=0) + noise
      >>> wrong = np.arange(5, 120, 15)
      >>> animals[wrong] = np.roll(animals, 40)[wrong]
      >>> audit = make_pipeline(StandardScaler(), rmd.LabelAuditor())
      >>> np.flatnonzero(audit.fit_predict(features, animals) == -1)
      array([  5,  20,  35,  50,  65,  80,  95, 110])
      >>> print(audit[-1].labels_[5])
      cat
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        neighbours: Any = "auto",
        temperature: Any = "auto",
        alpha: Any = "auto",
        in_doubt: str = "keep",
        search: str = "auto",
    ):
        self.seed = seed
        self.neighbours = neighbours
        self.temperature = temperature
        self.alpha = alpha
        self.in_doubt = in_doubt
        self.search = search

    def fit(self, X: Any, y: Any) -> LabelAuditor:
        """Finds wrong labels.

        Args:
          X: [n, d], features of any model.
          y: [n], the given labels.

        Returns:
          Itself.

        Raises:
          UserError: an argument is not as `find_label_errors` says.
        """
        X, y = validate_data(self, X, y, dtype="numeric")
        found = find_label_errors(X, y, **self.get_params())
        index = found.table["index"].to_numpy()
        self.found_, self.table_ = found, found.table
        self.labels_, self.targets_, self.classes_ = found.labels, found.targets, found.classes
        self.noise_rate_, self.noise_interval_ = found.noise_rate, found.noise_interval
        self.transition_, self.in_doubt_ = found.transition, found.in_doubt
        self.probability_, self.suspect_ = np.empty(len(y)), np.empty(len(y), bool)
        self.probability_[index] = found.table["probability"]
        self.suspect_[index] = found.table["decision"] == "change"
        return self

    def fit_predict(self, X: Any, y: Any) -> np.ndarray:
        """-1 for each suspect label and 1 for the others, int [n], as outlier detectors say it."""
        return np.where(self.fit(X, y).suspect_, -1, 1)

    @available_if(_apart)
    def score_samples(self, X: Any) -> np.ndarray:
        """Not there, says why: see `probability_`."""
        raise NotImplementedError

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        return tags
