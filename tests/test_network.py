"""The low-level API: network and trainer, for every backend and dtype."""

from __future__ import annotations

import copy
import pickle
import threading
import time
import warnings
from typing import Any

import numpy as np
import pytest
import scipy.sparse
from gradients import check_step
from hypothesis import given, settings
from hypothesis import strategies as st

import fastbp
from fastbp import kernels

DTYPES = ("float32", "float64")


def make_data(n: int = 50, n_in: int = 7, n_out: int = 3, seed: int = 0) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, n_in))
    return X, (X[:, :n_out] + 0.1 * rng.normal(size=(n, n_out))).argmax(axis=1)


def make_trainer(backend: str, dtype: str = "float64", **options: Any) -> fastbp.Trainer:
    net = fastbp.Network((7, 5, 3), dtype=dtype, random_state=0, backend=backend)
    return fastbp.Trainer(net, **{"random_state": 0, "batch_size": 16, "backend": backend, **options})


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_lines_of_the_readme_run(backend_name: str, dtype: str, tmp_path: Any) -> None:
    rng = np.random.default_rng(0)
    X, y = rng.random((64, 784)), rng.integers(0, 10, 64)
    net = fastbp.Network((784, 128, 10), hidden_activation="relu", output="softmax", dtype=dtype, random_state=0)
    trainer = fastbp.Trainer(
        net,
        loss="cross_entropy",
        optimizer="adam",
        learning_rate=1e-3,
        batch_size=32,
        backend=backend_name,
        n_threads=1,
        random_state=0,
    )
    history = trainer.fit(X, y, epochs=3)
    assert len(history.loss) == len(history.seconds) == 3
    assert history.loss[-1] < history.loss[0]
    assert net.predict(X).shape == (64,)
    assert net.predict_proba(X).shape == (64, 10)
    np.testing.assert_allclose(net.predict_proba(X).sum(axis=1), 1, rtol=1e-5)
    assert net.parameters.shape == (784 * 128 + 128 * 10 + 138,)
    assert net.parameters.dtype == dtype
    assert np.shares_memory(net.weights[1], net.parameters)
    assert np.shares_memory(net.biases[0], net.parameters)
    before = history.loss[-1]
    assert trainer.fit(X, y).loss[0] < before
    fastbp.save(trainer, tmp_path / "trainer.safetensors")
    again = fastbp.load(tmp_path / "trainer.safetensors")
    np.testing.assert_array_equal(again.network.parameters, net.parameters)


@pytest.mark.source("S2", "Book 4.1.5")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ["identity", "relu", "logistic", "tanh"])
@pytest.mark.parametrize("output", ["identity", "softmax", "logistic", "tanh", "relu", "exp"])
def test_a_rows_prediction_does_not_depend_on_its_batch(
    backend_name: str, dtype: str, activation: str, output: str
) -> None:
    """predict(X)[i] equals predict(X[i:i+1]) bit for bit, and CSR equals dense."""
    net = fastbp.Network((37, 50, 23, 11), activation, output, dtype=dtype, random_state=0, backend=backend_name)
    X = np.random.default_rng(0).normal(size=(300, 37)) * (np.random.default_rng(1).random((300, 37)) < 0.5)
    together = net.forward(X)
    for i in (0, 1, 7, 8, 255, 256, 299):
        np.testing.assert_array_equal(net.forward(X[i : i + 1]), together[i : i + 1])
    np.testing.assert_array_equal(net.forward(scipy.sparse.csr_matrix(X)), together)
    np.testing.assert_array_equal(net.forward(scipy.sparse.csc_array(X)), together)


@pytest.mark.parametrize("sparse", [True, False])
def test_a_long_prediction_comes_in_pieces(backend_name: str, sparse: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between them Ctrl-C is heard; where the pieces end changes no bit."""
    net = fastbp.Network((20, 9, 4), random_state=0, backend=backend_name)
    X = np.random.default_rng(0).normal(size=(1000, 20))
    samples = scipy.sparse.csr_matrix(X) if sparse else X
    module, pieces = kernels.backend(backend_name).module, []
    whole, predict = net.forward(samples), module.predict

    def record(plan: Any, order: Any, *arguments: Any) -> None:
        pieces.append(len(order))
        if len(pieces) == 4:
            raise KeyboardInterrupt
        predict(plan, order, *arguments)

    monkeypatch.setattr(module, "PREDICTED_FLOPS", 1)
    monkeypatch.setattr("fastbp.run.PIECE_ROWS", 300)
    np.testing.assert_array_equal(net.forward(samples), whole)
    monkeypatch.setattr(module, "predict", record)
    with pytest.raises(KeyboardInterrupt):
        net.forward(samples)
    assert pieces == [300, 300, 300, 100]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "nesterov", "adam", "adamw"])
def test_csr_trains_like_dense(backend_name: str, dtype: str, optimizer: str) -> None:
    X, y = make_data()
    X[np.random.default_rng(2).random(X.shape) < 0.6] = 0
    rules = {"momentum": fastbp.SGD(0.1, 0.9), "nesterov": fastbp.SGD(0.1, 0.9, nesterov=True)}
    results = []
    for data in (X, scipy.sparse.csr_matrix(X)):
        trainer = make_trainer(backend_name, dtype, optimizer=rules.get(optimizer, optimizer))
        loss = trainer.fit(data, y, epochs=4, alpha=1e-3).loss
        results.append((loss, trainer.network.parameters))
    assert results[0][0] == results[1][0]
    np.testing.assert_array_equal(results[0][1], results[1][1])


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=15, deadline=None)
@given(cuts=st.lists(st.integers(1, 20), max_size=5), seed=st.integers(0, 5))
def test_a_run_may_be_cut_after_any_step(backend_name: str, dtype: str, cuts: list[int], seed: int) -> None:
    X, y = make_data(seed=seed)

    def train(every: int | None) -> Any:
        callback = fastbp.Callback()
        callback.every_n_steps = every
        trainer = make_trainer(backend_name, dtype, batch_size=3)
        history = trainer.fit(X, y, epochs=2, callbacks=[callback])
        return history.loss, trainer.network.parameters

    loss, parameters = train(None)
    for every in cuts:
        cut_loss, cut_parameters = train(every)
        assert cut_loss == loss
        np.testing.assert_array_equal(cut_parameters, parameters)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_number_of_threads_does_not_change_a_bit(backend_name: str, dtype: str) -> None:
    X, y = make_data()
    found = []
    for n_threads in (1, 2, 3, 4, 8):
        trainer = make_trainer(backend_name, dtype, n_threads=n_threads)
        trainer.fit(X, y, epochs=3)
        found.append(trainer.network.parameters)
    for parameters in found[1:]:
        np.testing.assert_array_equal(parameters, found[0])


def test_nothing_of_the_data_survives_a_fit(backend_name: str) -> None:
    """X changed in place between two fits counts as changed."""
    X, y = make_data()
    trainer, fresh = make_trainer(backend_name), make_trainer(backend_name)
    trainer.fit(X, y)
    fresh.fit(X.copy(), y.copy())
    X[:] = X[::-1].copy()
    y[:] = y[::-1].copy()
    trainer.fit(X, y)
    fresh.fit(X.copy(), y.copy())
    np.testing.assert_array_equal(trainer.network.parameters, fresh.network.parameters)


@pytest.mark.source("S24", "Cheng 9.2", "SE more general network")
@pytest.mark.source("S5", "Cheng 9.2")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("output", "loss", "n_out"),
    [
        ("identity", "squared_error", 1),
        ("identity", "squared_error", 3),
        ("softmax", "squared_error", 3),
        ("tanh", "squared_error", 2),
        ("relu", "squared_error", 2),
        ("softmax", "cross_entropy", 3),
        ("logistic", "cross_entropy", 1),
        ("logistic", "cross_entropy", 4),
        ("exp", "poisson", 2),
        ("softplus", "poisson", 2),
        ("gelu", "squared_error", 3),
    ],
)
def test_one_step_of_gradient_descent_follows_the_loss(
    backend_name: str, dtype: str, bias: bool, output: str, loss: str, n_out: int
) -> None:
    """By central differences (Cheng 9.2, SE)."""
    check_step(backend_name, "tanh", output, loss, sizes=(4, 5, n_out), dtype=dtype, bias=bias)


@pytest.mark.source("S9", "Cheng 9.2.2")
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_reduction_scales_loss_and_step(backend_name: str, reduction: str) -> None:
    X, y = make_data(n=8)
    steps, losses = {}, {}
    for kind in ("mean", reduction):
        trainer = make_trainer(backend_name, optimizer="sgd", learning_rate=1e-3, batch_size=8)
        start = trainer.network.parameters.copy()
        losses[kind] = trainer.fit(X, y, reduction=kind, alpha=0.5).loss[0]
        steps[kind] = trainer.network.parameters - start
    factor = 8 if reduction == "sum" else 1
    np.testing.assert_allclose(losses[reduction], factor * losses["mean"], rtol=1e-12)
    np.testing.assert_allclose(steps[reduction], factor * steps["mean"], rtol=1e-9, atol=1e-15)


def test_sample_weights_count_like_repeated_samples(backend_name: str) -> None:
    X, y = make_data(n=6)
    weights = np.array([1, 2, 0, 1, 3, 1])
    repeated = np.repeat(np.arange(6), weights)
    one, other = (make_trainer(backend_name, optimizer="sgd", batch_size=8) for _ in range(2))
    loss = one.fit(X, y, sample_weight=weights, shuffle=False).loss
    np.testing.assert_allclose(other.fit(X[repeated], y[repeated], shuffle=False).loss, loss, rtol=1e-12)
    np.testing.assert_allclose(other.network.parameters, one.network.parameters, rtol=1e-10, atol=1e-14)


def test_weights_that_sum_to_zero_in_a_batch_are_refused(backend_name: str) -> None:
    X, y = make_data(n=4)
    with pytest.raises(ZeroDivisionError, match="Weights sum to zero"):
        make_trainer(backend_name, batch_size=2).fit(X, y, sample_weight=[0, 0, 1, 1], shuffle=False)


@pytest.mark.source("S16", "Cheng (2)")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("batch_size", [1, 3, 16, 70])
@pytest.mark.parametrize(
    ("output", "loss"),
    [("softmax", "cross_entropy"), ("softmax", "squared_error"), ("logistic", "cross_entropy")],
)
def test_class_numbers_and_one_hot_targets_train_alike(
    backend_name: str, output: str, loss: str, batch_size: int, weighted: bool, dtype: str
) -> None:
    X, y = make_data(n=150, n_out=5)
    weight = np.random.default_rng(1).uniform(0.1, 2, 150) if weighted else None
    losses, parameters = [], []
    for targets in (y, np.eye(5)[y]):
        net = fastbp.Network((7, 5, 5), output=output, dtype=dtype, random_state=0, backend=backend_name)
        trainer = fastbp.Trainer(net, loss=loss, batch_size=batch_size, random_state=0, backend=backend_name)
        losses.append(trainer.fit(X, targets, epochs=2, sample_weight=weight).loss)
        parameters.append(net.parameters)
    assert losses[0] == losses[1]
    np.testing.assert_array_equal(*parameters)


def test_validation_data_and_evaluate_agree(backend_name: str) -> None:
    X, y = make_data(n=300)
    trainer = make_trainer(backend_name)
    history = trainer.fit(X[:200], y[:200], epochs=2, validation_data=(X[200:], y[200:]))
    assert history.validation_loss[-1] == trainer.evaluate(X[200:], y[200:])
    p = trainer.network.predict_proba(X[200:])[np.arange(100), y[200:]]
    np.testing.assert_allclose(history.validation_loss[-1], -np.log(p).mean(), rtol=1e-6)
    np.testing.assert_allclose(trainer.evaluate(scipy.sparse.csr_matrix(X), y), trainer.evaluate(X, y), rtol=1e-12)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ((3,), "at least inputs and outputs"),
        ((3, 0, 2), "at least 1"),
        ("ab", "whole numbers"),
        ((3, 2.5), "whole numbers"),
    ],
)
def test_bad_layer_sizes_are_refused(layers: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fastbp.Network(layers)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_activation": "softmax"}, "hidden_activation is 'softmax'; choose one of 'identity'"),
        ({"output": "relu6"}, "output is 'relu6'"),
        ({"dtype": "float16"}, "choose 'float32' or 'float64'"),
        ({"dtype": "nonsense"}, "choose 'float32' or 'float64'"),
        ({"random_state": "seed"}, "random_state is 'seed'"),
        ({"n_threads": -1}, "n_threads is -1"),
        ({"backend": "gpu"}, "unknown backend 'gpu'"),
    ],
)
def test_bad_network_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fastbp.Network((3, 2), **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "poisson"}, "does not go with output 'softmax': build the network with output 'exp'"),
        ({"loss": "hinge"}, "loss is 'hinge'; choose one of"),
        ({"optimizer": "adma"}, "unknown optimizer 'adma'"),
        ({"optimizer": fastbp.Adam(), "learning_rate": 0.1}, "set it in the object"),
        ({"learning_rate": -1}, r"learning_rate is -1; pass a number in \(0, inf\)"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"random_state": -3}, "random_state is -3"),
    ],
)
def test_bad_trainer_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_trainer("numpy", **options)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"X": np.ones((50, 6))}, ValueError, "X has 6 features, but the network has 7 inputs"),
        ({"X": np.full((50, 7), np.nan)}, ValueError, "contains NaN"),
        ({"X": np.full((50, 7), np.inf)}, ValueError, "infinity"),
        ({"X": np.empty((0, 7))}, ValueError, "0 sample"),
        ({"X": np.array([["a"] * 7] * 50)}, ValueError, "could not convert|dtype"),
        ({"y": np.zeros(49, int)}, ValueError, r"y has shape \(49,\) but X has 50 samples"),
        ({"y": np.full(50, 3)}, ValueError, "class numbers from 3 to 3, but the network has 3 outputs"),
        ({"y": np.full(50, -1)}, ValueError, "class numbers from -1"),
        ({"y": np.full(50, 0.5)}, ValueError, "no class numbers"),
        ({"y": np.full(50, 1e30)}, ValueError, "no class numbers"),
        ({"y": np.array(["a"] * 50)}, TypeError, "y has dtype <U1"),
        ({"y": np.ones((50, 2))}, ValueError, "y has 2 columns but the network has 3 outputs"),
        ({"y": np.ones((50, 3))}, ValueError, "sum to 1"),
        ({"y": np.full((50, 3), np.nan)}, ValueError, "NaN"),
        ({"sample_weight": np.full(50, -1.0)}, ValueError, "at least 0"),
        ({"sample_weight": np.zeros(50)}, ValueError, "not 0 throughout"),
        ({"sample_weight": np.ones(49)}, ValueError, "pass 50 numbers"),
        ({"epochs": 0}, ValueError, "epochs is 0"),
        ({"alpha": -1}, ValueError, "alpha is -1"),
        ({"reduction": "max"}, ValueError, "reduction is 'max'"),
        ({"callbacks": [print]}, TypeError, "fastbp.Callback"),
        ({"validation_data": [1, 2, 3]}, ValueError, "validation_data must be a tuple"),
    ],
)
def test_bad_data_is_refused_and_changes_nothing(
    change: dict[str, Any], error: type[Exception], message: str, backend_name: str
) -> None:
    X, y = make_data()
    trainer = make_trainer(backend_name)
    before = trainer.network.parameters.copy()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # what is refused is not warned of as well
        with pytest.raises(error, match=message):
            trainer.fit(**{"X": X, "y": y, **change})
    np.testing.assert_array_equal(trainer.network.parameters, before)
    assert trainer.n_steps == 0


@pytest.mark.parametrize(
    "form",
    [
        np.asfortranarray,
        lambda X: np.repeat(X, 2, axis=0)[::2],
        lambda X: X.astype(">f8"),
        lambda X: X.tolist(),
        lambda X: (lambda copy: (copy.setflags(write=False), copy)[1])(X.copy()),
    ],
    ids=["fortran", "strided", "big-endian", "lists", "read-only"],
)
def test_every_form_of_the_same_data_trains_alike(backend_name: str, form: Any) -> None:
    X, y = make_data()
    one, other = make_trainer(backend_name), make_trainer(backend_name)
    given_X = form(X)
    kept = copy.deepcopy(given_X)
    assert one.fit(X, y).loss == other.fit(given_X, y).loss
    np.testing.assert_array_equal(given_X, kept)


def test_a_diverging_run_ends_with_scikit_learns_message(backend_name: str) -> None:
    X, y = make_data()
    net = fastbp.Network((7, 5, 1), "identity", "identity", random_state=0, backend=backend_name)
    trainer = fastbp.Trainer(
        net, loss="squared_error", optimizer="sgd", learning_rate=1e8, backend=backend_name, random_state=0
    )
    with pytest.raises(ValueError, match="Solver produced non-finite parameter weights"), np.errstate(all="ignore"):
        trainer.fit(X, y.astype(float), epochs=60)


class StopAfter(fastbp.Callback):
    """Ends a training that nothing else ends."""

    def __init__(self, seconds: float) -> None:
        self.end = time.perf_counter() + seconds

    def on_epoch_end(self, state: fastbp.TrainingState) -> None:
        state.stop_training = time.perf_counter() > self.end


def test_ctrl_c_keeps_the_weights_so_far(backend_name: str) -> None:
    import _thread

    X, y = make_data(n=2000)
    trainer = make_trainer(backend_name, batch_size=1)
    trainer.fit(X, y)  # compiled by now
    before, has_ended = trainer.network.parameters.copy(), threading.Event()

    def interrupt() -> None:
        time.sleep(0.3)
        _thread.interrupt_main()
        while not has_ended.wait(5):  # Python drops one that comes in a callback of its garbage collector, say
            _thread.interrupt_main()

    other = threading.Thread(target=interrupt)
    other.start()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(X, y, epochs=10**6, callbacks=[StopAfter(60)])
    has_ended.set()
    other.join()
    assert [str(warning.message) for warning in caught] == ["Training interrupted by user."]
    assert (trainer.network.parameters != before).any()
    assert np.isfinite(trainer.network.parameters).all()
    trainer.fit(X, y)


@pytest.mark.parametrize("how", [pickle.dumps, copy.deepcopy], ids=["pickle", "deepcopy"])
def test_copies_go_on_alike(backend_name: str, how: Any) -> None:
    X, y = make_data()
    trainer = make_trainer(backend_name)
    trainer.fit(X, y, epochs=2)
    made = how(trainer)
    other = pickle.loads(made) if isinstance(made, bytes) else made
    assert trainer.fit(X, y, epochs=2).loss == other.fit(X, y, epochs=2).loss
    np.testing.assert_array_equal(trainer.network.parameters, other.network.parameters)
    assert not np.shares_memory(trainer.network.parameters, other.network.parameters)


def test_two_fits_in_two_threads(backend_name: str) -> None:
    X, y = make_data(n=400)
    expected = make_trainer(backend_name)
    expected.fit(X, y, epochs=20)
    trainers = [make_trainer(backend_name) for _ in range(2)]
    threads = [threading.Thread(target=trainer.fit, args=(X, y), kwargs={"epochs": 20}) for trainer in trainers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for trainer in trainers:
        np.testing.assert_array_equal(trainer.network.parameters, expected.network.parameters)


def test_predictions_by_output() -> None:
    X = np.random.default_rng(0).normal(size=(9, 4))
    assert fastbp.Network((4, 3), random_state=0).predict(X).dtype == np.int64
    logistic = fastbp.Network((4, 1), output="logistic", random_state=0)
    assert set(logistic.predict(X)) <= {0, 1}
    np.testing.assert_allclose(logistic.predict_proba(X).sum(axis=1), 1)
    assert fastbp.Network((4, 3), output="logistic").predict(X).shape == (9, 3)
    assert fastbp.Network((4, 1), output="identity").predict(X).shape == (9,)
    with pytest.raises(ValueError, match="gives no probabilities"):
        fastbp.Network((4, 1), output="identity").predict_proba(X)


def test_initial_weights_are_scikit_learns() -> None:
    from sklearn.neural_network import MLPClassifier

    X, y = make_data()
    for activation in ("relu", "logistic"):
        model = MLPClassifier(
            (5,), activation=activation, random_state=7, learning_rate_init=1e-300, max_iter=1, alpha=0
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.fit(X, y)
        net = fastbp.Network((7, 5, 3), activation, dtype="float64", random_state=7)
        for W, expected in zip([*net.weights, *net.biases], [*model.coefs_, *model.intercepts_], strict=True):
            np.testing.assert_array_equal(W, expected)


def test_backends_agree_over_a_training(backend_name: str) -> None:
    X, y = make_data(n=203)
    reference, other = make_trainer("numpy"), make_trainer(backend_name)
    expected, found = (trainer.fit(X, y, epochs=5, alpha=1e-2).loss for trainer in (reference, other))
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    np.testing.assert_allclose(other.network.parameters, reference.network.parameters, rtol=1e-9, atol=1e-12)


def test_every_plan_stays_within_its_buffers(backend: kernels.Backend) -> None:
    """The trainer skips the checks of train_steps; here they judge the plans that it makes."""
    X, y = make_data()
    trainer = make_trainer(backend.name)
    for weights in (None, np.ones(50)):
        for data in (X, scipy.sparse.csr_matrix(X)):
            run = trainer._run(trainer._data(data, y, weights), {})
            table = kernels.step_table(4, rate=0.1, beta_1=0.9, beta_2=0.9, epsilon=1e-8)
            backend.train_steps(run.plan.rows, table, np.arange(50), 16, run.buffers, np.zeros(3))
            shorter = run.buffers._replace(work=run.buffers.work[:-16].copy())
            with pytest.raises(ValueError, match="work has"):
                backend.train_steps(run.plan.rows, table, np.arange(50), 16, shorter, np.zeros(3))


def test_an_interruption_right_after_a_run_of_steps_counts_them(
    backend_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C lands between bytecodes, mostly just after the kernel: parameters and step count must not part."""
    X, y = make_data()
    trainer = make_trainer(backend_name)
    module = kernels.backend(backend_name).module
    run = module.train_steps

    def interrupted(*args: Any) -> None:
        run(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "train_steps", interrupted)
    with pytest.warns(UserWarning, match="interrupted by user"):
        trainer.fit(X, y, callbacks=[EveryTwoSteps()])
    assert trainer.n_steps == 2


class EveryTwoSteps(fastbp.Callback):
    every_n_steps = 2


def test_a_damaged_sparse_matrix_is_refused(backend_name: str) -> None:
    X, y = make_data()
    damaged = scipy.sparse.csr_matrix(X)
    damaged.indices[3] = 7
    trainer = make_trainer(backend_name)
    with pytest.raises(ValueError, match="damaged sparse matrix"):
        trainer.fit(damaged, y)
    with pytest.raises(ValueError, match="damaged sparse matrix"):
        trainer.network.predict(damaged)


# ------------------------------------------------------------------------------- misuse that must not kill


@pytest.mark.parametrize("name", ["parameters", "weights", "layer_sizes", "dtype"])
def test_what_the_buffers_hang_on_cannot_be_replaced(name: str) -> None:
    net = fastbp.Network((3, 2), random_state=0)
    with pytest.raises(AttributeError, match=f"Network.{name} cannot be replaced"):
        setattr(net, name, None)
    net.parameters[...] = 0
    trainer = fastbp.Trainer(net)
    for attribute in ("network", "m", "v", "optimizer", "batch_size", "loss"):
        with pytest.raises(AttributeError, match=f"Trainer.{attribute} cannot be replaced"):
            setattr(trainer, attribute, None)


def test_read_only_parameters_are_refused() -> None:
    X, y = make_data()
    trainer = make_trainer("numpy")
    trainer.network.parameters.flags.writeable = False
    with pytest.raises(ValueError, match="parameters are read-only"):
        trainer.fit(X, y)


def test_a_callback_may_change_the_data_that_was_handed_in(backend_name: str) -> None:
    """Class numbers and sparse indices are copied: kernels trust them while they run."""
    X, y = make_data()
    sparse = scipy.sparse.csr_matrix(X)

    class Vandal(fastbp.Callback):
        every_n_steps = 1

        def on_step_end(self, state: fastbp.TrainingState) -> None:
            y[:] = 10**7
            sparse.indices[:] = 10**7

    make_trainer(backend_name).fit(sparse, y, epochs=2, callbacks=[Vandal()])


@pytest.mark.parametrize("every", [-2, 0, 1.5, True])
def test_bad_intervals_are_refused(every: Any) -> None:
    X, y = make_data()
    callback = fastbp.Callback()
    callback.every_n_steps = every
    with pytest.raises(ValueError, match="every_n_steps is"):
        make_trainer("numpy").fit(X, y, callbacks=[callback])


def test_training_twice_at_once_is_refused() -> None:
    X, y = make_data()
    trainer = make_trainer("numpy")

    class Again(fastbp.Callback):
        def on_epoch_begin(self, state: fastbp.TrainingState) -> None:
            state.trainer.fit(X, y)

    with pytest.raises(RuntimeError, match="training already"):
        trainer.fit(X, y, callbacks=[Again()])
    trainer.fit(X, y)


@pytest.mark.parametrize("when", ["on_train_begin", "on_epoch_begin"])
def test_training_may_be_stopped_before_it_begins(when: str) -> None:
    X, y = make_data()
    trainer = make_trainer("numpy")
    callback = fastbp.Callback()
    setattr(callback, when, lambda state: setattr(state, "stop_training", True))
    assert trainer.fit(X, y, epochs=3, callbacks=[callback]).loss == []
    assert trainer.n_steps == 0


@pytest.mark.parametrize("kind", ["csr_matrix", "csc_matrix"])
@pytest.mark.parametrize("damage", ["end", "start", "falling", "index", "short"])
def test_every_damage_to_a_sparse_matrix_is_refused(kind: str, damage: str) -> None:
    X, _ = make_data()
    damaged = getattr(scipy.sparse, kind)(X)
    if damage == "end":
        damaged.indptr[-1] = 10**9
    elif damage == "start":
        damaged.indptr[0] = -(10**8)
    elif damage == "falling":
        damaged.indptr[2] = damaged.indptr[5]
    elif damage == "index":
        damaged.indices[3] = 10**8
    else:
        damaged.data = damaged.data[:3]
    with pytest.raises(ValueError, match=r"damaged|indptr|indices|data"):
        make_trainer("numpy").network.predict(damaged)


def test_what_a_subclass_adds_survives_copies() -> None:
    net = NamedNetwork((3, 2), random_state=0)
    net.name = "first"
    net.name = "second"
    again = pickle.loads(pickle.dumps(net))
    assert type(again) is NamedNetwork
    assert again.name == "second"
    np.testing.assert_array_equal(again.parameters, net.parameters)


class NamedNetwork(fastbp.Network):
    name: str


@pytest.mark.parametrize("X", [np.full((5, 7), "1"), np.zeros((5, 7), "M8[s]"), np.full((5, 7), 1e300)])
def test_texts_dates_and_what_becomes_infinite_are_refused(X: Any) -> None:
    with pytest.raises((ValueError, TypeError), match=r"numbers|numeric|too large|DType"):
        make_trainer("numpy", "float32").network.predict(X)


def test_a_network_from_where_another_backend_was_is_taken_up(monkeypatch: pytest.MonkeyPatch) -> None:
    net = fastbp.Network((3, 2), random_state=0, backend="numpy")
    made = pickle.dumps(net)
    known = kernels.backend

    def elsewhere(name: str = "auto", custom: bool = False) -> kernels.Backend:
        if name == "numpy":
            raise ImportError("not here")
        return known(name, custom=custom)

    monkeypatch.setattr(kernels, "backend", elsewhere)
    again = pickle.loads(made)
    assert again.backend in ("cython", "numba")
    np.testing.assert_array_equal(again.parameters, net.parameters)


# --------------------------------------------------------------------------------------------- few rows


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("output", "sizes"), [("softmax", (7, 5, 3)), ("identity", (64, 33, 17, 1)), ("logistic", (2, 4))]
)
def test_predict_into_writes_what_forward_returns(
    backend_name: str, dtype: str, output: str, sizes: tuple[int, ...]
) -> None:
    net = fastbp.Network(sizes, "tanh", output, dtype=dtype, random_state=0, backend=backend_name)
    X = np.random.default_rng(0).standard_normal((20, sizes[0])).astype(dtype)
    for _ in range(2):
        many, one = np.empty((20, sizes[-1]), dtype), np.empty(sizes[-1], dtype)
        net.predict_into(X, many)
        net.predict_into(X[3], one)
        np.testing.assert_array_equal(one, many[3])
        wanted = net.forward(X)
        if backend_name == "numpy":  # a BLAS adds up in an order of its own
            np.testing.assert_allclose(many, wanted, rtol=1e-4 if dtype == "float32" else 1e-12)
        else:
            np.testing.assert_array_equal(many, wanted)
        net.parameters[:] *= 0.5  # nothing of the parameters is kept from call to call


def test_predict_into_lets_nan_through(backend_name: str) -> None:
    net, out = fastbp.Network((3, 2), random_state=0, backend=backend_name), np.zeros(2, "float32")
    net.predict_into(np.array([1, np.nan, 2], "float32"), out)
    assert np.isnan(out).all()


@pytest.mark.parametrize(
    ("x", "out"),
    [
        (np.zeros(4, "float32"), np.zeros(2, "float32")),
        (np.zeros(3, "float64"), np.zeros(2, "float32")),
        (np.zeros(3, "float32"), np.zeros(2, "float64")),
        (np.zeros(3, "float32"), np.zeros((1, 2), "float32")),
        (np.zeros((2, 3), "float32"), np.zeros((3, 2), "float32")),
        (np.zeros((1, 1, 3), "float32"), np.zeros((1, 1, 2), "float32")),
        (np.zeros((0, 3), "float32"), np.zeros((0, 2), "float32")),
        (np.zeros(6, "float32")[::2], np.zeros(2, "float32")),
        (np.zeros(3, "float32"), np.zeros(4, "float32")[::2]),
        ([0.0, 0.0, 0.0], np.zeros(2, "float32")),
        (np.zeros(3, "float32"), None),
        (np.zeros(3, "float32"), np.frombuffer(bytes(8), "float32")),
    ],
)
def test_predict_into_refuses_other_arrays(backend_name: str, x: Any, out: Any) -> None:
    net = fastbp.Network((3, 2), random_state=0, backend=backend_name)
    with pytest.raises(ValueError, match=r"pass C-contiguous arrays of dtype float32.*\(3,\) or \(n, 3\).*\(n, 2\)"):
        net.predict_into(x, out)


def test_predict_into_refuses_arrays_that_overlap(backend_name: str) -> None:
    net, memory = fastbp.Network((3, 2), random_state=0, backend=backend_name), np.zeros(4, "float32")
    with pytest.raises(ValueError, match="apart from each other"):
        net.predict_into(memory[:3], memory[2:])
    before = net.parameters.copy()
    with pytest.raises(ValueError, match="and from the parameters"):
        net.predict_into(memory[:3], net.parameters[:2])
    np.testing.assert_array_equal(net.parameters, before)


def test_predict_into_takes_the_backend_that_is_set(compiled_name: str) -> None:
    net, x, out = fastbp.Network((3, 2), random_state=0, backend="numpy"), np.ones(3, "float32"), np.empty(2, "float32")
    net.predict_into(x, out)
    net.backend = compiled_name
    net.predict_into(x, out)
    assert net._row_forward is not None
    assert net._row_forward.kernel is kernels.backend(compiled_name).module.predict_rows


def test_a_network_that_predicted_rows_can_be_copied(backend_name: str) -> None:
    net, x = fastbp.Network((3, 2), random_state=0, backend=backend_name), np.ones(3, "float32")
    out, copied = np.empty(2, "float32"), np.empty(2, "float32")
    net.predict_into(x, out)
    pickle.loads(pickle.dumps(net)).predict_into(x, copied)
    np.testing.assert_array_equal(copied, out)


@pytest.mark.parametrize("targets", ["one class", "shares", "halves", "some of each"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_cross_entropy_of_any_targets_in_large_batches(compiled_name: str, targets: str, dtype: str) -> None:
    """Where all samples of a vector have one class each, kernels take one logarithm for all outputs."""
    rng, n = np.random.default_rng(0), 75
    X, one = rng.standard_normal((n, 6)).astype(dtype), np.eye(5)[rng.integers(0, 5, n)]
    kinds = {"one class": one, "shares": rng.dirichlet(np.ones(5), n), "halves": (one + np.roll(one, 1, axis=1)) / 2}
    kinds["some of each"] = np.choose(rng.integers(0, 3, (n, 1)), list(kinds.values()))
    weight, histories = rng.random(n) if targets == "shares" else None, []
    for backend in ("numpy", compiled_name):
        network = fastbp.Network((6, 5), dtype=dtype, random_state=0)
        trainer = fastbp.Trainer(network, batch_size=40, backend=backend, random_state=0)
        histories.append(trainer.fit(X, kinds[targets].astype(dtype), epochs=3, sample_weight=weight).loss)
    np.testing.assert_allclose(histories[1], histories[0], rtol=1e-5 if dtype == "float32" else 1e-12, atol=1e-7)
