"""`LabelAuditor` behaves as scikit-learn's estimators do, and says what the function says."""

import inspect

import numpy as np
import pandas
import pytest
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import rmdnet_jax as rmd

FEW = "labels of fewer than 20 rows say nothing, and are refused"
EXPECTED = {
    "check_n_features_in_after_fitting": FEW,
    "check_estimators_nan_inf": FEW,
    "check_fit2d_1sample": FEW,
    "check_fit2d_1feature": FEW,
}
GENERATOR = np.random.default_rng(0)
CLEAN = np.repeat(np.arange(3), 40)
FEATURES = 5 + np.eye(3)[CLEAN] + 0.1 * GENERATOR.normal(size=(120, 3))
WRONG = np.isin(np.arange(120), GENERATOR.permutation(120)[:10])
GIVEN = np.array(["ant", "bee", "cow"])[(CLEAN + WRONG) % 3]


@parametrize_with_checks([rmd.LabelAuditor()], expected_failed_checks=lambda _: EXPECTED)
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def pipeline():
    return make_pipeline(StandardScaler(), rmd.LabelAuditor(seed=1)).fit(FEATURES, GIVEN)


def test_a_pipeline_finds_what_the_function_finds(pipeline):
    found = rmd.find_label_errors(StandardScaler().fit_transform(FEATURES), GIVEN, seed=1)
    fitted = pipeline[-1]
    np.testing.assert_array_equal(fitted.labels_, found.labels)
    np.testing.assert_array_equal(fitted.targets_, found.targets)
    np.testing.assert_array_equal(fitted.classes_, found.classes)
    np.testing.assert_array_equal(fitted.transition_, found.transition)
    assert fitted.noise_rate_ == found.noise_rate
    assert fitted.in_doubt_ == found.in_doubt
    for row in found.table.itertuples():
        assert fitted.probability_[row.index] == row.probability
        assert fitted.suspect_[row.index] == (row.decision == "change")
    assert fitted.table_.equals(found.table)


def test_suspects_are_minus_one_as_outliers_are(pipeline):
    said = pipeline.fit_predict(FEATURES, GIVEN)
    assert {*said.tolist()} == {-1, 1}
    assert np.mean(said[WRONG] == -1) > 0.5 > 0.02 > np.mean(said[~WRONG] == -1)


def test_scores_are_an_attribute_as_those_of_local_outlier_factor(pipeline):
    scores = pipeline[-1].probability_
    assert scores[WRONG].mean() < scores[~WRONG].mean()
    assert not hasattr(pipeline, "score_samples")
    with pytest.raises(AttributeError) as error:
        pipeline[-1].score_samples(FEATURES)
    assert "probability_ has the score of each" in str(error.value.__cause__)


def test_its_parameters_are_those_of_the_function():
    function = inspect.signature(rmd.find_label_errors).parameters
    expected = {
        name: parameter.default
        for name, parameter in function.items()
        if parameter.kind is parameter.KEYWORD_ONLY and name not in ("probabilities", "progress")
    }
    assert rmd.LabelAuditor().get_params() == expected
    changed = rmd.LabelAuditor().set_params(seed=3, in_doubt="use")
    assert clone(changed).get_params() == {**expected, "seed": 3, "in_doubt": "use"}


@pytest.mark.parametrize(
    ("features", "labels", "words"),
    [
        (FEATURES[:-1], GIVEN, "inconsistent numbers of samples"),
        (np.where(WRONG[:, None], np.nan, FEATURES), GIVEN, "contains NaN"),
        (FEATURES, None, "requires y to be passed"),
        (FEATURES, GIVEN[:1].repeat(120), "labels must hold two classes or more"),
    ],
)
def test_bad_input_is_refused_as_scikit_learn_refuses_it(features, labels, words):
    with pytest.raises(ValueError, match=words):
        rmd.LabelAuditor().fit(features, labels)


def test_frames_keep_the_names_of_their_columns():
    frame = pandas.DataFrame(FEATURES, columns=[*"abc"])
    fitted = rmd.LabelAuditor().fit(frame, pandas.Series(GIVEN))
    assert fitted.feature_names_in_.tolist() == [*"abc"]
    assert fitted.n_features_in_ == 3
