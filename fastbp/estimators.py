"""scikit-learn's MLP estimators with fastbp's kernels inside: the same numbers, sooner.

The classes inherit everything from scikit-learn's but the loops: training steps, loss and gradient for L-BFGS, and
prediction run in a backend. What they draw from the random state, print and store is scikit-learn's, quirks included.
"""

from __future__ import annotations

import copy
import functools
import logging
import warnings
from collections.abc import Iterable
from contextlib import AbstractContextManager
from numbers import Integral, Real
from typing import Any, Self

import numpy as np
import scipy.sparse
from numpy.typing import NDArray
from sklearn import get_config
from sklearn.base import BaseEstimator, is_classifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.neural_network import _multilayer_perceptron as original
from sklearn.neural_network._stochastic_optimizers import AdamOptimizer, SGDOptimizer
from sklearn.utils import check_array
from sklearn.utils._param_validation import Interval, StrOptions, validate_parameter_constraints
from sklearn.utils.validation import validate_data

from . import kernels
from .accelerate import check_sklearn_version
from .activations import (
    HIDDEN_ACTIVATIONS,
    OUTPUT_ACTIVATIONS,
    Activation,
    as_activation,
    as_hidden_activations,
    from_plain,
    is_custom,
)
from .data import as_device_array, as_features, is_plain, is_ready, label_matrix, on_host
from .fitted import (
    BATCH_NORM,
    NAMES,
    arrays_of,
    best_name,
    fold_batch_norm,
    keep_best,
    layout_for,
    layout_of,
    views_of,
)
from .gpu import CUDA, as_device, as_precision, check_precision, on_device
from .kernels import ActivationFunction, Loss, is_on_device
from .layers import BatchNorm, Dropout, as_batch_norm, as_dropout
from .layout import Layout
from .plan import ON_A_GPU, aligned_empty, check_steps
from .progress import EpochProgress
from .run import NonFinite, forward
from .solvers import (
    Epochs,
    LossAndGradient,
    as_flat,
    batch_size_for,
    kernel_dtype,
    loss_of_one,
    one_blas_thread,
    zeros_like_flat,
)

log = logging.getLogger("fastbp")

check_sklearn_version()

_OVERRIDABLE = ("_backprop", "_compute_loss_grad", "_forward_pass", "_loss_grad_lbfgs")
"""Methods of scikit-learn's loop: where a user's subclass overrides one of them, scikit-learn's own loop must run."""

_CANONICAL = {("log_loss", "softmax"), ("log_loss", "logistic"), ("squared_error", "identity"), ("poisson", "exp")}
"""Losses and outputs that together have the delta a - y, which scikit-learn takes for whatever output users set."""


class _KernelMLP(original.BaseMultilayerPerceptron):
    """The training loop and the forward pass over kernels, for both estimators."""

    _parameter_constraints: dict[str, list[Any]] = {
        **original.BaseMultilayerPerceptron._parameter_constraints,
        "activation": [StrOptions(set(HIDDEN_ACTIVATIONS)), Activation, list, tuple, callable],
        "batch_norm": ["boolean", None, BatchNorm, list, tuple],
        "dropout": [None, Interval(Real, 0, 1, closed="right"), Dropout, list, tuple],
        "backend": [StrOptions({"auto", *kernels.MODULES})],
        "n_threads": [None, Interval(Integral, 1, None, closed="left")],
        "progress": ["boolean"],
        "device": [None, Interval(Integral, 0, None, closed="left")],
        "precision": [None, StrOptions({"tf32"})],
    }
    batch_norm: Any
    dropout: Any
    backend: str
    n_threads: int | None
    progress: bool
    device: int | None
    precision: str | None
    coefs_: list[NDArray[Any]]
    intercepts_: list[NDArray[Any]]
    _no_improvement_count: int

    # ------------------------------------------------------------------------------------------ prediction

    def _forward_pass_fast(self, X: Any, check_input: bool = True) -> NDArray[Any]:
        """Return the outputs of the network for X of shape (n, I)."""
        with self._on_device():
            return self._outputs(X, check_input)

    def _outputs(self, X: Any, check_input: bool) -> NDArray[Any]:
        is_there = is_on_device(X)
        if is_there:
            X = as_device_array(X)
        elif check_input:
            X = validate_data(self, X, accept_sparse=["csr", "csc"], reset=False)
        layout = layout_of(self)
        parameters = arrays_of(self, layout)
        dtype = kernel_dtype(X, parameters)
        data = as_features(X, dtype, layout.layer_sizes[0], check=is_there)
        backend, params = self._kernels(), as_flat(parameters, dtype)
        return forward(backend, layout, self._activations(layout, dtype), params, data, self.n_threads)

    def _on_device(self) -> AbstractContextManager[Any]:
        """Take the GPU and the precision that were asked for, for as long as this lasts."""
        return on_device(as_device(self.device, self.backend), as_precision(self.precision, self.backend))

    def _kernels(self) -> kernels.Backend:
        return kernels.backend(self.backend, custom=is_custom(self.activation))

    def _compiled_activation(self) -> Any:
        """Return ``activation``, its Python functions compiled; that takes long, and is kept until the next fit."""
        if not is_custom(self.activation):
            return self.activation
        given, compiled = vars(self).get("_custom_activation", (None, None))
        if given is not self.activation:
            compiled = from_plain(self.activation)
            self._custom_activation = self.activation, compiled
        return compiled

    def _activations(self, layout: Layout, dtype: Any) -> tuple[ActivationFunction, ...]:
        hidden = as_hidden_activations(self._compiled_activation(), layout.n_layers - 1)
        output = as_activation(self.out_activation_, OUTPUT_ACTIVATIONS, "out_activation_")
        return tuple(one.function(dtype) for one in (*hidden, output))

    def _loss_code(self) -> Loss:
        if self.loss == "log_loss":
            return Loss.BINARY_CROSS_ENTROPY if self.out_activation_ == "logistic" else Loss.CROSS_ENTROPY
        return Loss.POISSON if self.loss == "poisson" else Loss.SQUARED_ERROR

    # ------------------------------------------------------------------------------------------- validation

    def _fit(self, X: Any, y: Any, *rest: Any, **options: Any) -> Any:
        """Fit as scikit-learn does; where a kernel comes upon NaN or infinity in X nothing has changed."""
        before = vars(self).copy()
        if not options.get("incremental"):
            self.__dict__.pop("_custom_activation", None)  # what it read from outside may have changed
        if self._changes_loss() and self.solver == "lbfgs":
            raise ValueError(
                "solver is 'lbfgs', which must find the same loss whenever it asks for it; with batch_norm or dropout "
                "choose solver='adam' or solver='sgd'"
            )
        try:
            with self._on_device():
                super()._fit(X, y, *rest, **options)
        except NonFinite:
            self.__dict__ = before
            check_array(X, input_name="X", estimator=self)  # says which of the two, in scikit-learn's words
            raise
        if not all(np.isfinite(array).all() for name in BATCH_NORM for array in getattr(self, name, ())):
            raise ValueError(
                "Solver produced non-finite parameter weights. The input data may contain large values and need to be "
                "preprocessed."
            )
        return self

    def _validate_params(self) -> None:
        """Validate the parameters; those that were validated lately are not worth scikit-learn's long look."""
        cls: Any = type(self)
        try:
            _validate(cls, *[getattr(self, name) for name in _parameter_names(cls)])
        except TypeError:  # one of them cannot be hashed, or is wrong
            super()._validate_params()

    def _between_layers(self) -> tuple[tuple[BatchNorm | None, ...], tuple[float, ...]]:
        """Return batch normalisation and dropout layer by layer, checked, and the activations with them."""
        n_hidden = len(np.atleast_1d(self.hidden_layer_sizes))
        as_hidden_activations(self._compiled_activation(), n_hidden)
        return as_batch_norm(self.batch_norm, n_hidden), as_dropout(self.dropout, n_hidden)

    def _changes_loss(self) -> bool:
        """Tell whether the loss depends on more than the parameters: on the mini-batch, or on what is dropped."""
        batch_norm, dropout = self._between_layers()
        return any(batch_norm) or any(p < 1 for p in dropout)

    def _validate_input(self, X: Any, y: Any, incremental: bool, reset: bool) -> tuple[Any, NDArray[Any]]:
        """Return X and y validated; steps that batch normalisation or dropout cannot take are refused."""
        if is_on_device(X):
            X, y = self._validated_on_device(X, y, incremental, reset)
        else:
            X, y = self._validated(X, y, incremental, reset)
        check_precision(self.precision, X.dtype, "X")
        batch_size = batch_size_for(self.batch_size, X.shape[0])
        check_steps(*self._between_layers(), batch_size, sparse=scipy.sparse.issparse(X))
        return X, y

    def _validated(self, X: Any, y: Any, incremental: bool, reset: bool) -> tuple[Any, NDArray[Any]]:
        """Return X and y validated; what a second call brings as plain arrays is not worth scikit-learn's long look."""
        if not (reset or hasattr(self, "feature_names_in_")):
            finite = not self._checks_while_fitting(X)
            targets = self._plain_targets(y, len(X)) if is_plain(X, self.n_features_in_, finite=finite) else None
            if targets is not None:
                return X, targets
        return super()._validate_input(X, y, incremental, reset)

    def _validated_on_device(self, X: Any, y: Any, incremental: bool, reset: bool) -> tuple[Any, NDArray[Any]]:
        """Return samples on a GPU as they are, and their targets on the host; scikit-learn looks at zeros like them."""
        if self.backend != CUDA:
            raise TypeError(ON_A_GPU.format(self.backend))
        if self.solver == "lbfgs" or self.early_stopping:
            what = "solver='lbfgs'" if self.solver == "lbfgs" else "early_stopping=True"
            raise ValueError(f"X lies on a GPU, and {what} works on samples of the host; pass a copy that lies there")
        X = as_device_array(X)
        X = as_features(X, kernel_dtype(X, []))["X"]
        alike = np.broadcast_to(np.zeros(1, X.dtype), X.shape)
        return X, super()._validate_input(alike, on_host(y), incremental, reset)[1]

    def _checks_while_fitting(self, X: Any) -> bool:
        """Tell whether kernels will look for NaN and infinity in all of X, working on copies of the parameters."""
        if type(X) is not np.ndarray or self.solver == "lbfgs" or self.early_stopping:
            return False
        if get_config()["assume_finite"] or self._why_not_accelerated() is not None:
            return False
        has_copies = self._kernels().module.PACKS
        return has_copies and is_ready(X, kernel_dtype(X, [*self.coefs_, *self.intercepts_]))

    def _plain_targets(self, y: Any, n: int) -> NDArray[Any] | None:
        """Return the targets that scikit-learn's validation would, or None where it has to look itself."""
        return y if is_plain(y, None) and len(y) == n else None

    # ------------------------------------------------------------------------------------- stochastic solvers

    def _initialize(self, y: Any, layer_units: Any, dtype: Any) -> None:
        """Draw the initial parameters as scikit-learn does, then lay them into one flat buffer."""
        super()._initialize(y, layer_units, dtype)
        self._draw_pieces(layer_units, dtype)
        for name in BATCH_NORM:
            self.__dict__.pop(name, None)
            self.__dict__.pop(best_name(name), None)
        layout, drawn = layout_of(self), [*self.coefs_, *self.intercepts_]
        self.__dict__.update(views_of(layout, aligned_empty(layout.total_size, dtype)))
        for view, values in zip([*self.coefs_, *self.intercepts_], drawn, strict=True):
            view[...] = values
        for layer in layout.normalized:
            self.intercepts_[layer][...] = 0
        for name, start in BATCH_NORM.items():
            for view in getattr(self, name, ()):
                view[...] = start
        if layout.layer_sizes[1:] != tuple(layout.widths) or layout.normalized:
            keep_best(self)

    def _draw_pieces(self, layer_units: Any, dtype: Any) -> None:
        """Draw the further pieces of maxout layers, after all that scikit-learn draws, beside the first ones."""
        for layer, activation in enumerate(as_hidden_activations(self._compiled_activation(), len(layer_units) - 2)):
            fans = layer_units[layer], layer_units[layer + 1]
            more = [self._init_coef(*fans, dtype) for _ in range(activation.pieces - 1)]
            if more:
                self.coefs_[layer] = np.hstack([self.coefs_[layer], *(W for W, _ in more)])
                self.intercepts_[layer] = np.hstack([self.intercepts_[layer], *(b for _, b in more)])

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
            self.__dict__.pop("_dropout_state", None)  # seed and number of steps: drawn anew where something is dropped
        if self.early_stopping and incremental:
            raise ValueError("partial_fit does not support early_stopping=True")
        training, validation = (X, y, sample_weight), (None, None, None)
        if self.early_stopping:
            training, validation = self._split(X, y, sample_weight)
        epochs = Epochs(self, *training)
        try:
            with EpochProgress(self.progress and not incremental, self.max_iter) as progress:
                self._run_epochs(epochs, validation, incremental, progress)
        except KeyboardInterrupt:
            warnings.warn("Training interrupted by user.", stacklevel=2)
        finally:
            epochs.end()
        if self.early_stopping:
            for name in (name for name in NAMES if hasattr(self, name)):
                setattr(self, name, getattr(self, best_name(name)))

    def _accelerated(self) -> bool:
        """Tell whether the kernels may replace scikit-learn's loop; say why where they may not."""
        reason = self._why_not_accelerated()
        if reason is not None:
            why = f"scikit-learn's own loop must run: {reason}"
            self._check_sklearn_knows_activation(why)
            if self._changes_loss():
                raise ValueError(f"batch_norm or dropout is used, but {why}; leave both out")
            log.warning("%s.fit runs scikit-learn's own loop: %s", type(self).__name__, reason)
        return reason is None

    def _check_sklearn_knows_activation(self, why: str) -> None:
        if self.activation not in list(original.ACTIVATIONS):
            names = ", ".join(map(repr, sorted(original.ACTIVATIONS.keys() - {"softmax", "exp"})))
            raise ValueError(f"activation is {self.activation!r}, but {why}; choose one of {names}")

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
        """Return scikit-learn's optimiser, its moments side by side: kernels take them without a copy."""
        params = [*self.coefs_, *self.intercepts_, *getattr(self, "batch_norm_scales_", ())]
        if self.solver == "adam":
            adam = AdamOptimizer([], self.learning_rate_init, self.beta_1, self.beta_2, self.epsilon)
            adam.ms, adam.vs = zeros_like_flat(params), zeros_like_flat(params)
            return adam
        schedule = self.learning_rate, self.momentum, self.nesterovs_momentum, self.power_t
        sgd = SGDOptimizer([], self.learning_rate_init, *schedule)
        sgd.velocities = zeros_like_flat(params)
        return sgd

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

    def _run_epochs(self, epochs: Epochs, validation: Any, incremental: bool, progress: EpochProgress) -> None:
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
            if self.early_stopping or self._looks_at_parameters():
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

    def _looks_at_parameters(self) -> bool:
        """Tell whether a subclass may read or change ``coefs_`` between epochs."""
        name = "_update_no_improvement_count"
        return name in vars(self) or getattr(type(self), name) is not getattr(_KernelMLP, name)

    def _update_no_improvement_count(self, early_stopping: bool, *validation: Any) -> None:
        """Count as scikit-learn does, and keep the best of batch normalisation beside the best weights."""
        best = getattr(self, "best_validation_score_", None)
        super()._update_no_improvement_count(early_stopping, *validation)
        if hasattr(self, "batch_norm_scales_") and self.best_validation_score_ != best:
            keep_best(self)

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
        layout = layout_for(self, tuple(int(size) for size in layer_units))
        arrays_of(self, layout)
        evaluator = LossAndGradient(self, layout, X, y, sample_weight)
        with one_blas_thread():
            super()._fit_lbfgs(X, y, sample_weight, evaluator, *buffers)
        self.loss_ = type(loss_of_one(self, y, sample_weight, evaluator.dtype))(self.loss_)

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
        if not isinstance(evaluator, LossAndGradient):
            evaluator = LossAndGradient(self, layout_of(self), X, y, sample_weight)
        return evaluator(packed_coef_inter)

    def _unpack(self, packed_parameters: Any) -> None:
        """Set the weights and biases that L-BFGS packed; scikit-learn knows no layer of several pieces."""
        layout = layout_of(self)
        if layout.layer_sizes[1:] == tuple(layout.widths):
            super()._unpack(packed_parameters)
        else:
            self.__dict__.update(views_of(layout, packed_parameters))

    # ----------------------------------------------------------------------------------- to and from scikit-learn

    def to_sklearn(self) -> Any:
        """Return a plain scikit-learn estimator with the same parameters and, if fitted, the same predictions.

        Batch normalisation is folded into ``coefs_`` and ``intercepts_``, and the optimiser left out, whose moments
        belong to what they were. Dropout is left out too: it has no part in prediction.

        Returns
        -------
        sklearn.neural_network.MLPClassifier or MLPRegressor

        Raises
        ------
        ValueError
            If scikit-learn does not know the activation.
        """
        self._check_sklearn_knows_activation("scikit-learn does not know it")
        params, cls = self.get_params(deep=False), original_class(type(self))
        shared = {name: params[name] for name in cls._get_param_names()}
        left_out = {*(params.keys() - shared), "_dropout_state"}
        if not hasattr(self, "batch_norm_scales_"):
            return _copy_state(self, cls(**shared), left_out)
        left_out |= {"_optimizer", *BATCH_NORM, *map(best_name, BATCH_NORM)}
        plain = _copy_state(self, cls(**shared), left_out)
        fold_batch_norm(self, plain)
        return plain

    @classmethod
    def from_sklearn(
        cls,
        estimator: Any,
        *,
        backend: str = "auto",
        n_threads: int | None = None,
        progress: bool = False,
        device: int | None = None,
        precision: str | None = None,
    ) -> Self:
        """Return this estimator with the parameters and, if fitted, the state of a scikit-learn one.

        Parameters
        ----------
        estimator : sklearn.neural_network.MLPClassifier or MLPRegressor
        backend, n_threads, progress, device, precision
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
        own |= {"device": device, "precision": precision}
        return _copy_state(estimator, cls(**shared, **own), params.keys() - shared)


class MLPClassifier(_KernelMLP, original.MLPClassifier):
    """scikit-learn's `sklearn.neural_network.MLPClassifier`, trained by fastbp's kernels.

    Every parameter, attribute and method is scikit-learn's; with the same ``random_state`` the numbers agree to
    rounding. Seven parameters, by keyword only, are new.

    Parameters
    ----------
    hidden_layer_sizes, activation, solver, alpha, batch_size, learning_rate, learning_rate_init, power_t, max_iter, \
shuffle, random_state, tol, verbose, warm_start, momentum, nesterovs_momentum, early_stopping, validation_fraction, \
beta_1, beta_2, epsilon, n_iter_no_change, max_fun
        As in scikit-learn; ``activation`` may be any that `fastbp.Network` takes, by name, as an object or a Python
        function, or a list with one for each hidden layer.
    batch_norm : bool, BatchNorm, or a list with one for each hidden layer, default=False
        Whether z is normalised over the mini-batch before the activation: see `fastbp.BatchNorm`. Not with L-BFGS.
    dropout : float, Dropout, or a list with a float for each hidden layer, default=None
        Probability, in (0, 1], that a unit of a hidden layer is *kept* in a step of training: see `fastbp.Dropout`. Not
        with L-BFGS.
    backend : {"auto", "cython", "numba", "cuda", "numpy"}, default="auto"
        What computes: ``"auto"`` is cython if it is built, else numba, which alone of them has custom activations.
        ``"cuda"``, a GPU, is taken only where it is asked for; X may then lie there.
    n_threads : int, default=None
        The most threads to take; None: as many as the system and its settings allow.
    progress : bool, default=False
        Show epochs, loss and time left on a terminal or in a notebook.
    device : int, default=None
        The GPU's number, with ``backend="cuda"``; None: the one in use.
    precision : {"tf32"}, default=None
        ``"tf32"``: float32 products of large layers on a GPU's tensor cores, whose factors have 10 bits. None: float32
        or float64, as X is.

    Attributes
    ----------
    batch_norm_scales_, batch_norm_means_, batch_norm_variances_ : list of ndarray
        With ``batch_norm`` only: gamma, running mean and running variance of each layer that is normalised. Its beta
        stands in ``intercepts_``. All other attributes are scikit-learn's.

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
        batch_norm: Any = False,
        dropout: Any = None,
        backend: str = "auto",
        n_threads: int | None = None,
        progress: bool = False,
        device: int | None = None,
        precision: str | None = None,
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
        self.batch_norm, self.dropout = batch_norm, dropout
        self.backend, self.n_threads, self.progress = backend, n_threads, progress
        self.device, self.precision = device, precision

    def _plain_targets(self, y: Any, n: int) -> NDArray[Any] | None:
        if self._label_binarizer.y_type_ not in ("binary", "multiclass"):
            return None
        return label_matrix(y, n, self.classes_, all_occur=self.warm_start)


class MLPRegressor(_KernelMLP, original.MLPRegressor):
    """scikit-learn's `sklearn.neural_network.MLPRegressor`, trained by fastbp's kernels.

    Every parameter, attribute and method is scikit-learn's; with the same ``random_state`` the numbers agree to
    rounding. Seven parameters, by keyword only, are new.

    Parameters
    ----------
    loss, hidden_layer_sizes, activation, solver, alpha, batch_size, learning_rate, learning_rate_init, power_t, \
max_iter, shuffle, random_state, tol, verbose, warm_start, momentum, nesterovs_momentum, early_stopping, \
validation_fraction, beta_1, beta_2, epsilon, n_iter_no_change, max_fun
        As in scikit-learn; ``activation`` may be any that `fastbp.Network` takes, by name, as an object or a Python
        function, or a list with one for each hidden layer.
    batch_norm : bool, BatchNorm, or a list with one for each hidden layer, default=False
        Whether z is normalised over the mini-batch before the activation: see `fastbp.BatchNorm`. Not with L-BFGS.
    dropout : float, Dropout, or a list with a float for each hidden layer, default=None
        Probability, in (0, 1], that a unit of a hidden layer is *kept* in a step of training: see `fastbp.Dropout`. Not
        with L-BFGS.
    backend : {"auto", "cython", "numba", "cuda", "numpy"}, default="auto"
        What computes: ``"auto"`` is cython if it is built, else numba, which alone of them has custom activations.
        ``"cuda"``, a GPU, is taken only where it is asked for; X may then lie there.
    n_threads : int, default=None
        The most threads to take; None: as many as the system and its settings allow.
    progress : bool, default=False
        Show epochs, loss and time left on a terminal or in a notebook.
    device : int, default=None
        The GPU's number, with ``backend="cuda"``; None: the one in use.
    precision : {"tf32"}, default=None
        ``"tf32"``: float32 products of large layers on a GPU's tensor cores, whose factors have 10 bits. None: float32
        or float64, as X is.

    Attributes
    ----------
    batch_norm_scales_, batch_norm_means_, batch_norm_variances_ : list of ndarray
        With ``batch_norm`` only: gamma, running mean and running variance of each layer that is normalised. Its beta
        stands in ``intercepts_``. All other attributes are scikit-learn's.

    Examples
    --------
    >>> from fastbp import MLPRegressor
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.preprocessing import scale
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = MLPRegressor(solver="lbfgs", alpha=10, max_iter=500, random_state=0).fit(X, scale(y))
    >>> bool(model.score(X, scale(y)) > 0.35)
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
        batch_norm: Any = False,
        dropout: Any = None,
        backend: str = "auto",
        n_threads: int | None = None,
        progress: bool = False,
        device: int | None = None,
        precision: str | None = None,
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
        self.batch_norm, self.dropout = batch_norm, dropout
        self.backend, self.n_threads, self.progress = backend, n_threads, progress
        self.device, self.precision = device, precision


@functools.cache
def _parameter_names(cls: type) -> list[str]:
    return cls._get_param_names()  # type: ignore[attr-defined]


@functools.lru_cache(maxsize=32, typed=True)
def _validate(cls: Any, *values: Any) -> None:
    """Raise InvalidParameterError for values of the parameters that scikit-learn refuses."""
    named = dict(zip(_parameter_names(cls), values, strict=True))
    validate_parameter_constraints(cls._parameter_constraints, named, caller_name=cls.__name__)


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
