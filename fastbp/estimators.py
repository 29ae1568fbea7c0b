"""scikit-learn's MLP estimators with fastbp's kernels inside: the same numbers, sooner.

The classes inherit everything from scikit-learn's but the loops: training steps, loss and gradient for L-BFGS, and
prediction run in a backend. What they draw from the random state, print and store is scikit-learn's, quirks included.
"""

from __future__ import annotations

import copy
import logging
import threading
import warnings
from collections.abc import Iterable
from numbers import Integral
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, is_classifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.neural_network import _multilayer_perceptron as original
from sklearn.neural_network._base import LOSS_FUNCTIONS
from sklearn.neural_network._stochastic_optimizers import AdamOptimizer, SGDOptimizer
from sklearn.utils import shuffle
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import validate_data
from threadpoolctl import threadpool_limits

from . import kernels
from .accelerate import check_sklearn_version
from .data import as_features, is_sparse, n_samples
from .kernels import Activation, Loss
from .optimizers import SGD, Adam, Optimizer
from .plan import Data, Layout, aligned_empty, gradient_plan, run_buffers, training_plan
from .progress import EpochProgress
from .run import Run, batch_scales, forward, make_table

log = logging.getLogger("fastbp")

check_sklearn_version()

GRADIENT_BATCH = 1024
"""Samples that go through the network together for L-BFGS's loss and gradient, which add up over such blocks."""

_OVERRIDABLE = ("_backprop", "_compute_loss_grad", "_forward_pass", "_loss_grad_lbfgs")
"""Methods of scikit-learn's loop: where a user's subclass overrides one of them, scikit-learn's own loop must run."""

_CANONICAL = {("log_loss", "softmax"), ("log_loss", "logistic"), ("squared_error", "identity"), ("poisson", "exp")}
"""Losses and outputs that together have the delta a - y, which scikit-learn takes for whatever output users set."""


class _KernelMLP(original.BaseMultilayerPerceptron):
    """The training loop and the forward pass over kernels, for both estimators."""

    _parameter_constraints: dict[str, list[Any]] = {
        **original.BaseMultilayerPerceptron._parameter_constraints,
        "backend": [StrOptions({"auto", *kernels.MODULES})],
        "n_threads": [None, Interval(Integral, 1, None, closed="left")],
        "progress": ["boolean"],
    }
    backend: str
    n_threads: int | None
    progress: bool
    coefs_: list[NDArray[Any]]
    intercepts_: list[NDArray[Any]]
    _no_improvement_count: int

    # ------------------------------------------------------------------------------------------ prediction

    def _forward_pass_fast(self, X: Any, check_input: bool = True) -> NDArray[Any]:
        """Return the outputs of the network for X of shape (n, I)."""
        if check_input:
            X = validate_data(self, X, accept_sparse=["csr", "csc"], reset=False)
        layout = self._layout()
        parameters = self._parameters(layout)
        dtype = _kernel_dtype(X, parameters)
        data = as_features(X, dtype, layout.layer_sizes[0], check=False)
        backend, params = kernels.backend(self.backend), _flat(parameters, dtype)
        return forward(backend, layout, self._activations(layout), params, data, self.n_threads or 1)

    def _layout(self) -> Layout:
        return Layout((len(self.coefs_[0]), *(np.shape(W)[-1] for W in self.coefs_)))

    def _parameters(self, layout: Layout) -> list[NDArray[Any]]:
        """Return ``coefs_`` and ``intercepts_``, which users may replace, if they fit a layout."""
        parameters = [np.asanyarray(array) for array in (*self.coefs_, *self.intercepts_)]
        shapes = [array.shape for array in parameters]
        wanted = [*layout.shapes, *((size,) for size in layout.layer_sizes[1:])]
        if shapes != wanted:
            raise ValueError(f"coefs_ and intercepts_ have shapes {shapes}; replace them by arrays of shapes {wanted}")
        return parameters

    def _activations(self, layout: Layout) -> tuple[Activation, ...]:
        hidden, output = Activation[self.activation.upper()], Activation[self.out_activation_.upper()]
        return (*[hidden] * (layout.n_layers - 1), output)

    def _loss_code(self) -> Loss:
        if self.loss == "log_loss":
            return Loss.BINARY_CROSS_ENTROPY if self.out_activation_ == "logistic" else Loss.CROSS_ENTROPY
        return Loss.POISSON if self.loss == "poisson" else Loss.SQUARED_ERROR

    # ------------------------------------------------------------------------------------- stochastic solvers

    def _initialize(self, y: Any, layer_units: Any, dtype: Any) -> None:
        """Draw the initial parameters as scikit-learn does, then lay them into one flat buffer."""
        super()._initialize(y, layer_units, dtype)
        layout = self._layout()
        flat = aligned_empty(layout.size, dtype)
        views = [*layout.weights(flat), *layout.biases(flat)]
        for view, values in zip(views, [*self.coefs_, *self.intercepts_], strict=True):
            view[...] = values
        self.coefs_, self.intercepts_ = views[: layout.n_layers], views[layout.n_layers :]

    def _fit_stochastic(
        self,
        X: Any,
        y: Any,
        sample_weight: Any,
        activations: Any,
        deltas: Any,
        coef_grads: Any,
        intercept_grads: Any,
        layer_units: Any,
        incremental: bool,
    ) -> None:
        if not self._accelerated():
            super()._fit_stochastic(
                X, y, sample_weight, activations, deltas, coef_grads, intercept_grads, layer_units, incremental
            )
            return
        if not incremental or not hasattr(self, "_optimizer"):
            self._optimizer = self._new_optimizer()
        if self.early_stopping and incremental:
            raise ValueError("partial_fit does not support early_stopping=True")
        training, validation = (X, y, sample_weight), (None, None, None)
        if self.early_stopping:
            training, validation = self._split(X, y, sample_weight)
        epochs = _Epochs(self, *training)
        try:
            with EpochProgress(self.progress and not incremental, self.max_iter) as progress:
                self._run_epochs(epochs, validation, incremental, progress)
        except KeyboardInterrupt:
            warnings.warn("Training interrupted by user.", stacklevel=2)
        finally:
            epochs.store()
        if self.early_stopping:
            self.coefs_, self.intercepts_ = self._best_coefs, self._best_intercepts

    def _accelerated(self) -> bool:
        """Tell whether the kernels may replace scikit-learn's loop; say why where they may not."""
        reason = self._why_not_accelerated()
        if reason is not None:
            log.warning("%s.fit runs scikit-learn's own loop: %s", type(self).__name__, reason)
        return reason is None

    def _why_not_accelerated(self) -> str | None:
        """Return why the kernels must not replace scikit-learn's loop, or None."""
        if (self.loss, self.out_activation_) not in _CANONICAL:
            return f"out_activation_ is {self.out_activation_!r}, with which the kernels have no loss {self.loss!r}"
        for name in _OVERRIDABLE:
            if name in vars(self):
                return f"{name} was set on this object, and the kernels do not call it"
        for cls in type(self).__mro__:
            if cls in (MLPClassifier, MLPRegressor):
                return None
            for name in _OVERRIDABLE:
                if name in vars(cls):
                    return f"{cls.__name__} overrides {name}, which the kernels do not call"
        return None

    def _new_optimizer(self) -> AdamOptimizer | SGDOptimizer:
        params = [*self.coefs_, *self.intercepts_]
        if self.solver == "adam":
            return AdamOptimizer(params, self.learning_rate_init, self.beta_1, self.beta_2, self.epsilon)
        schedule = self.learning_rate, self.momentum, self.nesterovs_momentum, self.power_t
        return SGDOptimizer(params, self.learning_rate_init, *schedule)

    def _split(self, X: Any, y: Any, sample_weight: Any) -> tuple[tuple[Any, Any, Any], tuple[Any, Any, Any]]:
        """Set a validation part aside: (X, y, sample_weight) for training and for validation."""
        weights = [] if sample_weight is None else [sample_weight]
        parts = train_test_split(
            X,
            y,
            *weights,
            random_state=self._random_state,
            test_size=self.validation_fraction,
            stratify=y if is_classifier(self) and self.n_outputs_ == 1 else None,
        )
        training, validation = parts[0::2], parts[1::2]
        if validation[0].shape[0] < 2:
            raise ValueError(
                "The validation set is too small. Increase 'validation_fraction' or the size of your dataset."
            )
        if is_classifier(self):
            validation[1] = self._label_binarizer.inverse_transform(validation[1])
        none = [] if weights else [None]
        return (*training, *none), (*validation, *none)

    def _run_epochs(self, epochs: _Epochs, validation: Any, incremental: bool, progress: EpochProgress) -> None:
        """Train epoch by epoch, with scikit-learn's bookkeeping after each."""
        self.n_iter_ = 0
        for _ in range(self.max_iter):
            self.loss_ = epochs.run()
            self.n_iter_ += 1
            self.t_ += epochs.n_samples
            self.loss_curve_.append(self.loss_)
            if self.verbose:
                print(f"Iteration {self.n_iter_}, loss = {self.loss_:.8f}")
            progress.advance(self.loss_)
            if self.early_stopping:
                epochs.store()
            self._update_no_improvement_count(self.early_stopping, *validation)
            self._optimizer.iteration_ends(self.t_)
            if self._no_improvement_count > self.n_iter_no_change:
                if self._optimizer.trigger_stopping(self._stopping_message(), self.verbose):
                    break
                self._no_improvement_count = 0
            if incremental:
                break
            if self.n_iter_ == self.max_iter:
                warnings.warn(
                    f"Stochastic Optimizer: Maximum iterations ({self.max_iter}) "
                    "reached and the optimization hasn't converged yet.",
                    ConvergenceWarning,
                    stacklevel=2,
                )

    def _stopping_message(self) -> str:
        watched = "Validation score" if self.early_stopping else "Training loss"
        return f"{watched} did not improve more than tol={self.tol:f} for {self.n_iter_no_change} consecutive epochs."

    # --------------------------------------------------------------------------------------------- L-BFGS

    def _fit_lbfgs(
        self,
        X: Any,
        y: Any,
        sample_weight: Any,
        activations: Any,
        deltas: Any,
        coef_grads: Any,
        intercept_grads: Any,
        layer_units: Any,
    ) -> None:
        """Run scikit-learn's driver; what it hands through as ``activations`` is the evaluator, made once."""
        buffers = deltas, coef_grads, intercept_grads, layer_units
        if not self._accelerated():
            super()._fit_lbfgs(X, y, sample_weight, activations, *buffers)
            return
        layout = Layout(tuple(int(size) for size in layer_units))
        self._parameters(layout)
        evaluator = _LossAndGradient(self, layout, X, y, sample_weight, np.dtype(np.float64))
        with _one_blas_thread:
            super()._fit_lbfgs(X, y, sample_weight, evaluator, *buffers)
        outputs = np.result_type(X.dtype, evaluator.point_dtype)
        self.loss_ = type(_loss_of_one(self, y, sample_weight, outputs))(self.loss_)

    def _loss_grad_lbfgs(
        self,
        packed_coef_inter: Any,
        X: Any,
        y: Any,
        sample_weight: Any,
        activations: Any,
        deltas: Any,
        coef_grads: Any,
        intercept_grads: Any,
    ) -> tuple[np.float64, NDArray[Any]]:
        """Return the loss and its gradient by the packed parameters."""
        if self._why_not_accelerated() is not None:
            buffers = activations, deltas, coef_grads, intercept_grads
            return super()._loss_grad_lbfgs(packed_coef_inter, X, y, sample_weight, *buffers)
        self._unpack(packed_coef_inter)
        evaluator = activations
        if not isinstance(evaluator, _LossAndGradient):
            evaluator = _LossAndGradient(self, self._layout(), X, y, sample_weight, packed_coef_inter.dtype)
        return evaluator(packed_coef_inter)

    # ----------------------------------------------------------------------------------- to and from scikit-learn

    def to_sklearn(self) -> Any:
        """Return a plain scikit-learn estimator with the same parameters and, if fitted, the same predictions.

        Returns
        -------
        sklearn.neural_network.MLPClassifier or MLPRegressor
        """
        params, cls = self.get_params(deep=False), original_class(type(self))
        shared = {name: params[name] for name in cls._get_param_names()}
        return _copy_state(self, cls(**shared), params.keys() - shared)

    @classmethod
    def from_sklearn(
        cls, estimator: Any, *, backend: str = "auto", n_threads: int | None = None, progress: bool = False
    ) -> Self:
        """Return this estimator with the parameters and, if fitted, the state of a scikit-learn one.

        Parameters
        ----------
        estimator : sklearn.neural_network.MLPClassifier or MLPRegressor
        backend, n_threads, progress
            As of this class.

        Raises
        ------
        TypeError
            If ``estimator`` is not scikit-learn's counterpart of this class.
        """
        if not isinstance(estimator, original_class(cls)):
            raise TypeError(
                f"estimator is a {type(estimator).__name__}; pass a scikit-learn {original_class(cls).__name__}"
            )
        params = estimator.get_params(deep=False)
        shared = {name: params[name] for name in original_class(cls)._get_param_names()}
        own = {"backend": backend, "n_threads": n_threads, "progress": progress}
        return _copy_state(estimator, cls(**shared, **own), params.keys() - shared)


class _Epochs:
    """Epochs of an estimator's stochastic solver over the kernels."""

    def __init__(self, estimator: Any, X: Any, y: Any, sample_weight: Any) -> None:
        estimator.coefs_, estimator.intercepts_ = _as_list(estimator.coefs_), _as_list(estimator.intercepts_)
        self.estimator, layout = estimator, estimator._layout()
        self.parameters = estimator._parameters(layout)
        dtype = _kernel_dtype(X, self.parameters)
        data = as_features(X, dtype, layout.layer_sizes[0], check=False)
        self.n_samples = n = n_samples(data)
        self.batch_size = _batch_size(estimator.batch_size, n)
        self.order = np.arange(n, dtype=int)
        data.update(_targets(y, dtype, layout.layer_sizes[-1], estimator.out_activation_))
        self.weights = None if sample_weight is None else np.asarray(sample_weight, np.float64)
        data["sample_weight"] = _weight_column(sample_weight, dtype)
        length = n if estimator.batch_size == "auto" else np.int64(self.batch_size)  # as NumPy's clip returns it
        self.loss_type = type(_loss_of_one(estimator, y, sample_weight, dtype) * length)
        self.flat = _flat(self.parameters, dtype)
        self.moments = _moments(estimator._optimizer, self.parameters, dtype)
        self.rule = _as_rule(estimator._optimizer)
        self.run_ = self._make_run(data)

    def _make_run(self, data: dict[str, NDArray[Any]]) -> Run:
        estimator = self.estimator
        backend, layout = kernels.backend(estimator.backend), estimator._layout()
        form = Data(is_sparse(data), bool(data["classes"].size), bool(data["sample_weight"].size))
        codes = estimator._activations(layout), estimator._loss_code()
        plan = training_plan(layout, *codes, self.rule.rule, self.batch_size, form)
        state = {"params": self.flat, **self.moments}
        buffers = run_buffers(plan, backend, data, state)
        log.info(
            "%s.fit runs on backend %s: %d samples in batches of %d",
            type(estimator).__name__,
            backend.name,
            self.n_samples,
            self.batch_size,
        )
        return Run(backend, plan, buffers, estimator.n_threads or 1)

    def run(self) -> Any:
        """Run one epoch and return its loss."""
        estimator = self.estimator
        if estimator.shuffle:
            self.order = shuffle(self.order, random_state=estimator._random_state)
        weights = None if self.weights is None else self.weights[self.order]
        n_steps = -(-self.n_samples // self.batch_size)
        t = getattr(estimator._optimizer, "t", 0)
        scales = batch_scales(self.n_samples, self.batch_size, weights)
        table = make_table(n_steps, scales, {"l2": estimator.alpha}, self._rates(t, n_steps))
        try:
            self.run_.steps(self.order, table)
        finally:
            done = self.run_.n_done
            if isinstance(estimator._optimizer, AdamOptimizer) and done:
                estimator._optimizer.t = t + done
                estimator._optimizer.learning_rate = table["rate"][done - 1]
        data_loss, penalty, _ = self.run_.losses.tolist()
        if estimator.loss == "squared_error":  # scikit-learn's loss is the mean over the outputs, its gradient the sum
            data_loss /= estimator._layout().layer_sizes[-1]
        return self.loss_type((data_loss + penalty) / self.n_samples)

    def _rates(self, t: int, n_steps: int) -> dict[str, Any]:
        """Return the optimiser's fields of the step records, at the learning rate of this epoch."""
        optimizer = self.estimator._optimizer
        if isinstance(optimizer, SGDOptimizer):
            return {"rate": optimizer.learning_rate, "momentum": optimizer.momentum}
        return self.rule.step_values(t, n_steps)

    def store(self) -> None:
        """Write parameters and moments back to where the estimator keeps them."""
        layout = self.estimator._layout()
        for flat, arrays in ((self.flat, self.parameters), *self._moment_arrays()):
            views = [*layout.weights(flat), *layout.biases(flat)]
            for position, (array, view) in enumerate(zip(arrays, views, strict=True)):
                if np.may_share_memory(array, view):
                    continue
                if array.flags.writeable:
                    np.copyto(array, view, casting="same_kind")
                else:  # memory-mapped: the estimator gets an array of its own
                    arrays[position] = view.astype(array.dtype)
        self.estimator.coefs_[:] = self.parameters[: layout.n_layers]
        self.estimator.intercepts_[:] = self.parameters[layout.n_layers :]

    def _moment_arrays(self) -> list[tuple[NDArray[Any], list[NDArray[Any]]]]:
        optimizer = self.estimator._optimizer
        return [(self.moments[name], getattr(optimizer, kept)) for name, kept in _moment_names(optimizer).items()]


class _LossAndGradient:
    """Loss and gradient over all samples, block by block, for L-BFGS."""

    def __init__(
        self, estimator: Any, layout: Layout, X: Any, y: Any, sample_weight: Any, dtype: np.dtype[Any]
    ) -> None:
        n_inputs, n_outputs = layout.layer_sizes[0], layout.layer_sizes[-1]
        data = as_features(X, dtype, n_inputs, check=False)
        n = n_samples(data)
        data.update(_targets(y, dtype, n_outputs, estimator.out_activation_))
        data["sample_weight"] = _weight_column(sample_weight, dtype)
        self.n_averaged = n_outputs if estimator.loss == "squared_error" else 1
        self.point_dtype = dtype
        backend = kernels.backend(estimator.backend)
        self.params, self.grads = aligned_empty(layout.size, dtype), aligned_empty(layout.size, dtype)
        form = Data(is_sparse(data), bool(data["classes"].size), sample_weight is not None)
        codes = estimator._activations(layout), estimator._loss_code()
        plan = gradient_plan(layout, *codes, min(n, GRADIENT_BATCH), form)
        state = {"params": self.params, "grads": self.grads}
        buffers = run_buffers(plan, backend, data, state)
        self.run = Run(backend, plan, buffers, estimator.n_threads or 1)
        self.order = np.arange(n, dtype=np.int64)
        scale = batch_scales(n, n, sample_weight)["grad_scale"]
        n_blocks = -(-n // plan.batch_size)
        first = np.arange(n_blocks) == 0  # the first block overwrites the gradient and takes the penalty
        values = {"grad_scale": scale, "loss_scale": scale, "keep": ~first, "l2": estimator.alpha * first}
        self.table = make_table(n_blocks, values)

    def __call__(self, packed: NDArray[Any]) -> tuple[np.float64, NDArray[Any]]:
        self.params[...] = packed
        self.point_dtype = packed.dtype  # SciPy may keep that of the initial point
        self.run.steps(self.order, self.table)
        data_loss, penalty, _ = self.run.losses.tolist()
        return np.float64(data_loss / self.n_averaged + penalty), self.grads.copy()


class _OneBlasThread:
    """One BLAS thread while any thread is inside: limits of threadpoolctl that overlap would outlast each other."""

    def __init__(self) -> None:
        self.lock, self.n_inside = threading.Lock(), 0
        self.limits: Any = None

    def __enter__(self) -> None:
        with self.lock:
            if self.n_inside == 0:
                self.limits = threadpool_limits(1, user_api="blas")
            self.n_inside += 1

    def __exit__(self, *error: object) -> None:
        with self.lock:
            self.n_inside -= 1
            if self.n_inside == 0:
                self.limits.restore_original_limits()


_one_blas_thread = _OneBlasThread()


class MLPClassifier(_KernelMLP, original.MLPClassifier):
    """scikit-learn's `sklearn.neural_network.MLPClassifier`, trained by fastbp's kernels.

    Every parameter, attribute and method is scikit-learn's; with the same ``random_state`` the numbers agree to
    rounding. Three parameters, by keyword only, are new.

    Parameters
    ----------
    hidden_layer_sizes, activation, solver, alpha, batch_size, learning_rate, learning_rate_init, power_t, max_iter, \
shuffle, random_state, tol, verbose, warm_start, momentum, nesterovs_momentum, early_stopping, validation_fraction, \
beta_1, beta_2, epsilon, n_iter_no_change, max_fun
        As in scikit-learn.
    backend : {"auto", "cython", "numba", "numpy"}, default="auto"
        What computes: ``"auto"`` is cython if it is built, else numba.
    n_threads : int, default=None
        How many threads the kernels may use.
    progress : bool, default=False
        Show epochs, loss and time left on a terminal or in a notebook.

    Examples
    --------
    >>> from fastbp import MLPClassifier
    >>> from sklearn.datasets import load_digits
    >>> X, y = load_digits(return_X_y=True)
    >>> clf = MLPClassifier(random_state=0, max_iter=50, tol=1e-3).fit(X[:1000] / 16, y[:1000])
    >>> bool(clf.score(X[1000:] / 16, y[1000:]) > 0.9)
    True
    """

    def __init__(
        self,
        hidden_layer_sizes: Any = (100,),
        activation: str = "relu",
        *,
        solver: str = "adam",
        alpha: float = 0.0001,
        batch_size: int | str = "auto",
        learning_rate: str = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: bool = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        max_fun: int = 15000,
        backend: str = "auto",
        n_threads: int | None = None,
        progress: bool = False,
    ) -> None:
        super().__init__(
            hidden_layer_sizes=hidden_layer_sizes,
            activation=activation,
            solver=solver,
            alpha=alpha,
            batch_size=batch_size,
            learning_rate=learning_rate,
            learning_rate_init=learning_rate_init,
            power_t=power_t,
            max_iter=max_iter,
            shuffle=shuffle,
            random_state=random_state,
            tol=tol,
            verbose=verbose,
            warm_start=warm_start,
            momentum=momentum,
            nesterovs_momentum=nesterovs_momentum,
            early_stopping=early_stopping,
            validation_fraction=validation_fraction,
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon,
            n_iter_no_change=n_iter_no_change,
            max_fun=max_fun,
        )
        self.backend, self.n_threads, self.progress = backend, n_threads, progress


class MLPRegressor(_KernelMLP, original.MLPRegressor):
    """scikit-learn's `sklearn.neural_network.MLPRegressor`, trained by fastbp's kernels.

    Every parameter, attribute and method is scikit-learn's; with the same ``random_state`` the numbers agree to
    rounding. Three parameters, by keyword only, are new.

    Parameters
    ----------
    loss, hidden_layer_sizes, activation, solver, alpha, batch_size, learning_rate, learning_rate_init, power_t, \
max_iter, shuffle, random_state, tol, verbose, warm_start, momentum, nesterovs_momentum, early_stopping, \
validation_fraction, beta_1, beta_2, epsilon, n_iter_no_change, max_fun
        As in scikit-learn.
    backend : {"auto", "cython", "numba", "numpy"}, default="auto"
        What computes: ``"auto"`` is cython if it is built, else numba.
    n_threads : int, default=None
        How many threads the kernels may use.
    progress : bool, default=False
        Show epochs, loss and time left on a terminal or in a notebook.

    Examples
    --------
    >>> from fastbp import MLPRegressor
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.preprocessing import scale
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = MLPRegressor(solver="lbfgs", alpha=10, max_iter=500, random_state=0).fit(X, scale(y))
    >>> bool(model.score(X, scale(y)) > 0.5)
    True
    """

    _parameter_constraints: dict[str, list[Any]] = {
        **original.MLPRegressor._parameter_constraints,
        **_KernelMLP._parameter_constraints,
    }

    def __init__(
        self,
        loss: str = "squared_error",
        hidden_layer_sizes: Any = (100,),
        activation: str = "relu",
        *,
        solver: str = "adam",
        alpha: float = 0.0001,
        batch_size: int | str = "auto",
        learning_rate: str = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: bool = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        max_fun: int = 15000,
        backend: str = "auto",
        n_threads: int | None = None,
        progress: bool = False,
    ) -> None:
        super().__init__(
            loss=loss,
            hidden_layer_sizes=hidden_layer_sizes,
            activation=activation,
            solver=solver,
            alpha=alpha,
            batch_size=batch_size,
            learning_rate=learning_rate,
            learning_rate_init=learning_rate_init,
            power_t=power_t,
            max_iter=max_iter,
            shuffle=shuffle,
            random_state=random_state,
            tol=tol,
            verbose=verbose,
            warm_start=warm_start,
            momentum=momentum,
            nesterovs_momentum=nesterovs_momentum,
            early_stopping=early_stopping,
            validation_fraction=validation_fraction,
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon,
            n_iter_no_change=n_iter_no_change,
            max_fun=max_fun,
        )
        self.backend, self.n_threads, self.progress = backend, n_threads, progress


def original_class(cls: type) -> Any:
    """Return the scikit-learn class that an estimator class stands in for."""
    return original.MLPClassifier if issubclass(cls, MLPClassifier) else original.MLPRegressor


def _copy_state(source: BaseEstimator, target: Any, left_out: Iterable[str]) -> Any:
    """Copy fitted attributes; the parameters that both have stand in the target already, the others are left out."""
    known = {*target.get_params(deep=False), *left_out}
    for name, value in vars(source).items():
        if name not in known:
            setattr(target, name, copy.deepcopy(value))
    return target


def _kernel_dtype(X: Any, parameters: list[NDArray[Any]]) -> np.dtype[Any]:
    """Return the dtype in which NumPy would compute with X and these parameters: float32 or float64."""
    found = np.result_type(X.dtype, *(array.dtype for array in parameters))
    return np.dtype(np.float32 if found in (np.float16, np.float32) else np.float64)


def _flat(arrays: list[NDArray[Any]], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return arrays as one flat buffer: without a copy where they lie side by side in one already."""
    base = arrays[0].base
    if isinstance(base, np.ndarray) and base.ndim == 1 and base.flags.c_contiguous:
        start = end = _address(arrays[0])
        for array in arrays:
            fits = array.base is base and array.dtype == dtype and array.flags.carray
            if not (fits and _address(array) == end):
                break
            end += array.nbytes
        else:
            first = start - _address(base)
            return base.view(np.uint8)[first : first + end - start].view(dtype)
    flat = aligned_empty(sum(array.size for array in arrays), dtype)
    np.concatenate([array.ravel() for array in arrays], out=flat, casting="same_kind")
    return flat


def _as_list(arrays: Any) -> list[NDArray[Any]]:
    """Return the list itself: after early stopping it is that of the best parameters, too."""
    return arrays if isinstance(arrays, list) else list(arrays)


def _address(array: NDArray[Any]) -> int:
    return int(array.__array_interface__["data"][0])


def _moment_names(optimizer: AdamOptimizer | SGDOptimizer) -> dict[str, str]:
    """Return which of the kernels' moments is which attribute of scikit-learn's optimiser."""
    if isinstance(optimizer, AdamOptimizer):
        return {"m": "ms", "v": "vs"}
    return {"m": "velocities"} if optimizer.momentum else {}


def _moments(
    optimizer: AdamOptimizer | SGDOptimizer, parameters: list[NDArray[Any]], dtype: np.dtype[Any]
) -> dict[str, NDArray[Any]]:
    """Return the kernels' moments, flat, if they belong to these parameters."""
    moments = {name: getattr(optimizer, kept) for name, kept in _moment_names(optimizer).items()}
    wanted = [array.shape for array in parameters]
    for arrays in moments.values():
        if [array.shape for array in arrays] != wanted:
            raise ValueError(
                f"coefs_ and intercepts_ have shapes {wanted}, but the optimizer began with others; "
                "call fit instead of partial_fit to begin anew"
            )
    return {name: _flat(arrays, dtype) for name, arrays in moments.items()}


def _as_rule(optimizer: AdamOptimizer | SGDOptimizer) -> Optimizer:
    """Return fastbp's optimiser with the hyper-parameters of scikit-learn's."""
    if isinstance(optimizer, AdamOptimizer):
        betas = optimizer.beta_1, optimizer.beta_2
        return Adam(optimizer.learning_rate_init, *betas, optimizer.epsilon)
    return SGD(optimizer.learning_rate_init, optimizer.momentum, optimizer.nesterov)


def _targets(y: Any, dtype: np.dtype[Any], n_outputs: int, output: str) -> dict[str, NDArray[Any]]:
    """Return validated targets as a run's buffers: class numbers for exclusive classes, else a matrix.

    One column beside several outputs, as a warm start may bring it, stands for all of them: scikit-learn's difference
    of outputs and targets broadcasts.
    """
    if y.dtype.kind not in "biuf":
        raise TypeError(f"y has dtype {y.dtype}; pass numbers")
    y = np.broadcast_to(y, (len(y), n_outputs))
    if output == "softmax" and y.dtype == bool and (np.count_nonzero(y, axis=1) == 1).all():
        return {"y": np.empty((0, n_outputs), dtype), "classes": y.argmax(axis=1)}
    return {"y": np.ascontiguousarray(y, dtype=dtype), "classes": np.empty(0, np.int64)}


def _weight_column(sample_weight: Any, dtype: np.dtype[Any]) -> NDArray[Any]:
    if sample_weight is None:
        return np.empty((0, 1), dtype)
    return np.ascontiguousarray(sample_weight, dtype=dtype).reshape(-1, 1)


def _loss_of_one(estimator: Any, y: NDArray[Any], sample_weight: NDArray[Any] | None, dtype: np.dtype[Any]) -> Any:
    """Return scikit-learn's loss of one sample, outputs of ``dtype``: for the type of the losses that it reports."""
    name = "binary_log_loss" if estimator._loss_code() == Loss.BINARY_CROSS_ENTROPY else estimator.loss
    weight = None if sample_weight is None else np.ones(1, sample_weight.dtype)
    return LOSS_FUNCTIONS[name](y[:1], np.full((1, y.shape[1]), 0.5, dtype), weight)


def _batch_size(batch_size: int | str, n: int) -> int:
    """Return the size of the mini-batches, clipped to the number of samples with scikit-learn's warning."""
    if batch_size == "auto":
        return min(200, n)
    if int(batch_size) > n:
        warnings.warn(
            "Got `batch_size` less than 1 or larger than sample size. It is going to be clipped", stacklevel=2
        )
    return min(int(batch_size), n)
