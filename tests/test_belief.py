"""Witnesses, what they are pooled to, and when noise is proved: each part against a slow one."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from rmdnet_jax.relations import belief, doubt, neighbours, probe, propagation, votes
from rmdnet_jax.relations.graph import connect
from rmdnet_jax.relations.transition import noise_rate, standard_errors

CLASSES, SIZE = 3, 150
RANDOM = np.random.default_rng(0)
CLEAN = np.arange(SIZE) % CLASSES
FEATURES = (np.eye(6)[CLEAN] + 0.3 * RANDOM.normal(size=(SIZE, 6))).astype(np.float32)
FOLD = RANDOM.permutation(SIZE) % votes.FOLDS
SHARE = np.full(CLASSES, 1 / CLASSES)


def graph(k=5):
    return connect(*neighbours.exact(FEATURES, k), 0.2)


def test_votes_without_folds_are_those_of_labels_that_never_were_there():
    parts = votes.by_fold(graph(), 0.9, CLEAN, FOLD, CLASSES)
    held = np.asarray(votes.held_out(graph(), 0.9, CLEAN, FOLD, CLASSES))
    np.testing.assert_allclose(votes.heard(parts, FOLD, SHARE), held, atol=1e-4)
    out = (0, 3)
    found = votes.heard(parts, FOLD, SHARE, out)
    other = np.where(np.isin(FOLD, out), (CLEAN + 1) % CLASSES, CLEAN)
    parts = votes.by_fold(graph(), 0.9, other, FOLD, CLASSES)
    np.testing.assert_array_equal(votes.heard(parts, FOLD, SHARE, out), found)
    np.testing.assert_allclose(found.mean(0), SHARE, atol=0.05)


def test_labels_are_corrected_without_those_of_the_folds_left_out():
    given = np.where(RANDOM.random(SIZE) < 0.3, (CLEAN + 1) % CLASSES, CLEAN)
    out = (4, 5)
    other = np.where(np.isin(FOLD, out), 0, given)
    one, two = (
        votes.corrected(
            graph(), 0.8, votes.by_fold(graph(), 0.8, y, FOLD, CLASSES), y, FOLD, out, 64
        )
        for y in (given, other)
    )
    for a, b in zip(one, two):
        np.testing.assert_array_equal(a, b)
    assert np.mean(one[0].argmax(1) == CLEAN) > 0.9 > np.mean(given == CLEAN)


def test_vote_and_given_label_are_joined_by_bayes_rule():
    told, given = RANDOM.dirichlet(np.ones(CLASSES), 60), RANDOM.integers(0, CLASSES, 60)
    noise = RANDOM.dirichlet(np.ones(CLASSES), CLASSES)
    target, sharpness = votes.joined(told, given, noise), votes.best_sharpness(told, given, noise)
    likelihoods = []
    for s in votes.SHARPNESS:
        q = told**s / (told**s).sum(1, keepdims=True)
        likelihoods.append(
            sum(
                np.log(sum(q[i, y] * noise[y, given[i]] for y in range(CLASSES))) for i in range(60)
            )
        )
    assert sharpness == votes.SHARPNESS[int(np.argmax(likelihoods))]
    for i in range(60):
        slow = np.array([told[i, y] ** sharpness * noise[y, given[i]] for y in range(CLASSES)])
        np.testing.assert_allclose(target[i], slow / slow.sum(), rtol=1e-8)


@pytest.mark.parametrize("penalty", probe.PENALTIES)
def test_the_probe_is_ridge_regression_on_the_other_folds(penalty):
    label, outer = np.eye(CLASSES, dtype=np.float32)[CLEAN], FOLD // 2
    made = probe.made(FEATURES, outer)
    rows = StandardScaler().fit_transform(FEATURES)
    for part in range(5):
        own = outer == part
        slow = Ridge(penalty * np.sum(~own)).fit(rows[~own], label[~own]).predict(rows[own])
        found = probe.asked(made, part, label, (penalty,))
        np.testing.assert_allclose(found[0], slow, atol=1e-4)
        other = np.where(own[:, None], 0, label)
        np.testing.assert_array_equal(probe.asked(made, part, other, (penalty,)), found)


def test_a_probe_of_very_wide_or_constant_features_tells_classes():
    wide = np.repeat(FEATURES, 300, axis=1)
    flat = np.concatenate([FEATURES, np.ones((SIZE, 2), np.float32)], axis=1)
    label, outer = np.eye(CLASSES, dtype=np.float32)[CLEAN], FOLD // 2
    for features in (wide, flat):
        made = probe.made(features, outer)
        scores = probe.asked(made, 0, label, (0.1,))[0]
        assert np.mean(scores.argmax(1) == CLEAN[outer == 0]) > 0.9


def drawn(size=4000, rate=0.4, pair=False, seed=0):
    """Witnesses whose softmax is the truth's distribution, the truth, and labels with noise."""
    generator = np.random.default_rng(seed)
    odds = 2 * generator.normal(size=(size, CLASSES))
    q = np.exp(odds) / np.exp(odds).sum(1, keepdims=True)
    clean = np.array([generator.choice(CLASSES, p=row) for row in q])
    step = 1 if pair else generator.integers(1, CLASSES, size)
    given = np.where(generator.random(size) < rate, (clean + step) % CLASSES, clean)
    return belief.centred(odds)[None], clean, given


@pytest.mark.parametrize(
    ("kind", "pair"), [("even", False), ("by_class", False), ("by_class", True)]
)
def test_noise_and_weights_are_found_that_the_labels_were_drawn_with(kind, pair):
    odds, clean, given = drawn(20_000, 0.3, pair)
    found = belief.fit(odds / 3, given, kind, steps=200)
    assert found.weight[0] == pytest.approx(3, rel=0.15)
    table = np.array([[np.mean(given[clean == y] == j) for j in range(CLASSES)] for y in range(3)])
    np.testing.assert_allclose(found.transition, table, atol=0.05)
    prior = belief.pooled(odds / 3, found.weight, found.bias)
    right = belief.posterior(prior, found.transition[:, given].T)[np.arange(20_000), given]
    for low in np.arange(0, 1, 0.25):
        part = (right >= low) & (right < low + 0.25)
        assert np.mean((given == clean)[part]) == pytest.approx(right[part].mean(), abs=0.05)


def test_what_is_seen_is_bayes_rule():
    odds, _, given = drawn(50)
    noise = belief.Noise(np.array([1.5]), np.array([0.1, 0, -0.1]), np.full((3, 3), 1 / 3))
    likelihood = belief.seen(odds, given, noise)
    prior = belief.pooled(odds, noise.weight, noise.bias)
    posterior = belief.posterior(prior, noise.transition[:, given].T)
    for i in range(50):
        q = np.exp(1.5 * odds[0, i] + noise.bias)
        joint = [q[y] / q.sum() * noise.transition[y, given[i]] for y in range(CLASSES)]
        assert likelihood[i] == pytest.approx(np.log(sum(joint)))
        np.testing.assert_allclose(posterior[i], np.array(joint) / sum(joint))


def test_unseen_labels_are_told_by_what_was_fitted_without_them():
    odds, _, given = drawn(300)
    fold, options = np.arange(300) % 5, (None, 1.0, 10)
    found = belief.unseen(odds, given, fold, "even", *options)
    for part in range(5):
        own = fold == part
        noise = belief.fit(odds[:, ~own], given[~own], "even", *options)
        slow = belief.seen(odds[:, own], given[own], noise)
        np.testing.assert_array_equal(found[own], slow)


def test_the_interval_covers_the_rate_it_was_drawn_with():
    """Labels are right with the probabilities that are said, witnesses err in a tenth."""
    covered = 0
    for seed in range(200):
        generator = np.random.default_rng(seed)
        said = generator.beta(3, 1, 500)
        right = generator.random(500) < said
        rate, low, high = noise_rate(said, right ^ (generator.random(500) < 0.1))
        assert rate == np.mean(1 - said)
        covered += low <= np.mean(~right) <= high
    assert covered >= 190
    assert noise_rate(said, right, proved=False)[1] == 0


def test_errors_of_the_transition_are_binomial():
    noise = np.array([[0.9, 0.1], [0.3, 0.7]])
    drawn = RANDOM.binomial([50, 200], [0.9, 0.3], size=(4000, 2)) / [50, 200]
    found = standard_errors(noise, np.array([50, 200]))
    np.testing.assert_allclose(found[:, 0], drawn.std(0), rtol=0.1)


# What proves nothing; then what passes each test alone, and what just misses it.
NOTHING = {
    "taught": 0.0, "taught_error": 5.0, "both_probe": 0.0, "both_probe_error": 3.0,
    "both_graph": 0.0, "both_graph_error": 3.0, "even": 0.0, "even_error": 3.0,
    "transitivity": 0.7, "transitivity_error": 0.0, "gain": 50.0, "margin": 0.2, "told": 1000,
    "informed": 500.0,
}  # fmt: skip
LASTS = {"transitivity": 0.9, "transitivity_error": 0.05, "taught": 1.0}


@pytest.mark.parametrize(
    ("seen", "passed", "kind"),
    [
        ({}, set(), "none"),
        ({"taught": 11.0}, {"taught"}, "by_class"),
        ({"taught": 11.0, "taught_error": 6.0}, set(), "none"),
        ({"taught": 9.0, "taught_error": 1.0}, set(), "none"),
        ({"both_probe": 6.0, "both_graph": 10.0}, {"both"}, "even"),
        (LASTS | {"both_probe": 6.0, "both_graph": 10.0}, {"both", "lasts"}, "even"),
        ({"both_probe": 4.0, "both_graph": 20.0}, set(), "none"),
        ({"both_probe": 6.0, "both_graph": 6.0}, set(), "none"),
        ({"even": 7.0}, {"even"}, "even"),
        ({"even": 5.0, "even_error": 1.0}, set(), "none"),
        ({"even": 11.0, "even_error": 6.0}, set(), "none"),
        (LASTS, {"lasts"}, "by_class"),
        (LASTS | {"transitivity_error": 0.11}, set(), "none"),
        (LASTS | {"taught": -11.0}, set(), "none"),  # the probe is worse for it
        (LASTS | {"gain": 20.0}, set(), "none"),  # there is no noise
        (LASTS | {"gain": 20.0, "taught": 6.0, "taught_error": 2.0}, {"lasts"}, "by_class"),
        (LASTS | {"taught": -9.0}, {"lasts"}, "by_class"),
        (LASTS | {"told": 10_000, "gain": 290.0}, set(), "none"),
        (LASTS | {"gain": 6.0, "transitivity": 0.96, "margin": 0.3}, {"lasts"}, "by_class"),
        (LASTS | {"gain": 4.0, "transitivity": 0.96, "margin": 0.3}, set(), "none"),
        (LASTS | {"gain": 6.0, "transitivity": 1.4, "margin": 0.3}, {"lasts"}, "by_class"),
        (LASTS | {"gain": 6.0, "transitivity": 1.4, "transitivity_error": 0.3}, set(), "none"),
        (LASTS | {"margin": 0.0}, set(), "none"),  # two classes that nothing tells apart
        ({"even": 50.0, "taught": 50.0}, {"even", "taught"}, "by_class"),
        # classes that overlap: labels two steps along agree far less; the probe is worse
        ({"taught": 50.0, "transitivity": 0.5}, set(), "none"),
        ({"even": 50.0, "taught": -11.0}, set(), "none"),
    ],
)
def test_noise_has_to_be_proved(seen, passed, kind):
    seen = NOTHING | seen
    assert {name for name, test in doubt.tests(seen).items() if test.passed} == passed
    found, witnesses = doubt.kind(seen)
    assert found == kind
    assert ("corrected_vote" in witnesses) == ("both" in passed)


def test_a_class_that_would_vanish_is_doubt():
    given = np.repeat([0, 1, 2], 50)
    gone = np.eye(3)[np.where(given == 2, 1, given)]
    for posterior, share in ((gone, 0), (np.eye(3)[given], 51 / 50)):
        found = propagation._verdict("by_class", posterior, given, clean=False)
        assert found["least_left"] == share
        assert found["in_doubt"] == (share < doubt.LEFT)
        failed = [name for name, test in doubt.tests(NOTHING | found).items() if name == "left"]
        assert failed == (["left"] if found["in_doubt"] else [])


def test_a_class_that_bears_another_name_as_often_as_its_own_is_left_alone():
    noise = np.array([[0.5, 0.45, 0.05], [0.1, 0.8, 0.1], [0.4, 0.0, 0.6]])
    suggested, given = np.array([0, 0, 0, 1, 2]), np.array([1, 2, 0, 0, 0])
    found = propagation._rivals(noise, suggested, given)
    np.testing.assert_array_equal(found, [True, False, False, False, False])


def test_classes_that_features_cannot_tell_apart_lose_nothing():
    """Features know pairs of classes: half of each pair would be renamed."""
    for seed in range(2):
        generator = np.random.default_rng(seed)
        above = np.repeat(np.arange(3), 80)
        features = (np.eye(6)[above] + 0.2 * generator.normal(size=(240, 6))).astype(np.float32)
        clean = 2 * above + generator.integers(0, 2, 240)
        wrong_ones = generator.random(240) < 0.2
        given = np.where(wrong_ones, generator.integers(0, 6, 240), clean)
        for labels in (clean, given):
            found = propagation.propagate(features, labels, 6, seed)
            right = np.mean(found.targets.argmax(1) == clean)
            assert right >= np.mean(labels == clean) - 0.005
