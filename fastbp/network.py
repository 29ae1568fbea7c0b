"""The network: an immutable specification and its parameters."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from dataclasses import asdict
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import kernels
from .activations import (
    OUTPUT_ACTIVATIONS,
    Activation,
    as_activation,
    as_hidden_activations,
    from_plain,
    is_custom,
    to_plain,
)
from .data import as_features
from .initializers import Initializer, as_initializers, as_random_state, draw_layers
from .kernels import ActivationFunction
from .layers import as_batch_norm, as_dropout
from .layout import Layout
from .plan import aligned_empty
from .run import RowForward, forward


class Fixed:
    """Base of objects some of whose attributes are set once: replaced later, buffers would not fit each other."""

    _fixed: tuple[str, ...] = ()

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self._fixed and (name in self.__dict__ or hasattr(type(self), name)):
            kind = type(self).__name__
            raise AttributeError(
                f"{kind}.{name} cannot be replaced; make a new {kind} (arrays may be changed in place)"
            )
        super().__setattr__(name, value)


class Network(Fixed):
    """A multilayer perceptron: z^l = a^(l-1) W^l + b^l, a^l = act(z^l) (P&P (2)(3), Cheng (3)(4), Book 4.1.4).

    Parameters
    ----------
    layer_sizes : iterable of int
        Inputs, hidden layers, outputs: ``(784, 128, 10)``. Two numbers make a network without hidden layers.
    hidden_activation : str, Activation, callable, or a sequence with one for each hidden layer
        ``"relu"``, ``"identity"``, ``"logistic"``, ``"tanh"``, ``"leaky_relu"``, ``"elu"``, ``"selu"``, ``"softplus"``,
        ``"gelu"``, ``"silu"``, ``"maxout"``, ``"sign"``, an object such as ``fastbp.LeakyReLU(0.05)``, or a Python
        function of one number, which becomes a `CustomActivation`.
    output : str, Activation or callable
        Activation of the output layer: one of these, ``"softmax"`` or ``"exp"``.
    bias : bool
        False: no layer has a bias (P&P (2)).
    batch_norm : bool, BatchNorm, or a sequence with one for each hidden layer
        Whether z is normalised over the mini-batch before the activation: see `fastbp.BatchNorm`.
    dropout : float, Dropout, or a sequence with a float for each hidden layer, optional
        Probability, in (0, 1], that a unit of a hidden layer is *kept* in a step of training: see `fastbp.Dropout`.
    dtype : {"float32", "float64"}
    initializer : str, Initializer, or a sequence of them
        What the initial weights and biases are drawn by, in all layers or in each: ``"sklearn"`` (as scikit-learn
        draws them), ``"glorot_uniform"``, ``"he_normal"`` and the others of `fastbp.initializers.INITIALIZERS`, or an
        object such as ``fastbp.initializers.Normal(0.1)``.
    random_state : None, int or numpy.random.RandomState
        For the initial weights.
    backend : str
        ``"auto"``, ``"cython"``, ``"numba"`` or ``"numpy"``: what computes predictions. Only numba has custom
        activations.
    n_threads : int, optional
        The most threads to take; left out, as many as the system and its settings allow.

    Attributes
    ----------
    layer_sizes : tuple of int
    hidden_activation, output : str, Activation or tuple
        As they were given, Python functions as `CustomActivation`.
    functions : tuple of Activation
        One for each layer.
    is_custom : bool
        Whether one of them is a `CustomActivation`.
    bias : bool
    batch_norm : tuple of BatchNorm or None
        One for each hidden layer.
    dropout : tuple of float
        Probabilities that units are kept: of the inputs and of each hidden layer.
    dtype : numpy.dtype
    backend : str
        The backend's name.
    parameters : ndarray of shape (n_parameters,)
        All weights, then all biases, in one flat buffer.
    weights, biases : tuple of ndarray
        Each layer's W of shape (inputs, outputs) and b of shape (outputs,), views into ``parameters``. A maxout layer
        has as many times more outputs here as its units have pieces; b of a normalised layer is its beta.
    gammas, running_means, running_variances : tuple of ndarray
        Of each layer with batch normalisation; the gammas are views into ``parameters``.
    buffer : ndarray
        The parameters, and behind them the running means and variances.

    Raises
    ------
    ValueError
        If an argument is not as described.
    ImportError
        If the backend is not available.

    Examples
    --------
    >>> import fastbp
    >>> net = fastbp.Network((4, 3, 2), random_state=0)
    >>> net.n_parameters, net.weights[0].shape, net.biases[1].shape
    (23, (4, 3), (2,))
    """

    _fixed = (
        "layer_sizes",
        "hidden_activation",
        "output",
        "bias",
        "batch_norm",
        "dropout",
        "dtype",
        "layout",
        "functions",
        "is_custom",
        "activations",
        "buffer",
        "parameters",
        "weights",
        "biases",
        "gammas",
        "running_means",
        "running_variances",
    )

    def __init__(
        self,
        layer_sizes: Iterable[int],
        hidden_activation: Any = "relu",
        output: Any = "softmax",
        *,
        bias: bool = True,
        batch_norm: Any = False,
        dropout: Any = None,
        dtype: Any = "float32",
        initializer: str | Initializer | Iterable[str | Initializer] = "sklearn",
        random_state: int | np.random.RandomState | None = None,
        backend: str = "auto",
        n_threads: int | None = None,
    ) -> None:
        self.layer_sizes = _as_layer_sizes(layer_sizes)
        n_hidden = len(self.layer_sizes) - 2
        self.hidden_activation, self.output = from_plain(hidden_activation), from_plain(output)
        hidden = as_hidden_activations(self.hidden_activation, n_hidden)
        last = as_activation(self.output, OUTPUT_ACTIVATIONS, "output")
        if last.name == "softmax" and self.layer_sizes[-1] == 1:
            raise ValueError("softmax over one output is always 1; use output='logistic' for two classes")
        self.bias = bool(bias)
        self.batch_norm, self.dropout = as_batch_norm(batch_norm, n_hidden), as_dropout(dropout, n_hidden)
        if any(self.batch_norm) and not self.bias:
            raise ValueError("batch_norm needs biases: beta is the bias of a layer; pass bias=True")
        self.dtype = _as_dtype(dtype)
        self.is_custom = is_custom((*hidden, last))
        self.backend = kernels.backend(backend, custom=self.is_custom).name
        self.n_threads = None if n_threads is None else kernels.check_n_threads(n_threads)
        self.functions: tuple[Activation, ...] = (*hidden, last)
        pieces = tuple(function.pieces for function in self.functions)
        self.layout = Layout(self.layer_sizes, self.bias, pieces, (*self.batch_norm, None))
        self.activations: tuple[ActivationFunction, ...] = tuple(one.function(self.dtype) for one in self.functions)
        self.buffer = aligned_empty(self.layout.total_size, self.dtype)
        self.parameters = self.buffer[: self.layout.size]
        self.weights = tuple(self.layout.weights(self.parameters))
        self.biases = tuple(self.layout.biases(self.parameters))
        self.gammas = tuple(self.layout.gammas(self.parameters))
        self.running_means = tuple(self.layout.means(self.buffer))
        self.running_variances = tuple(self.layout.variances(self.buffer))
        self._row_forward: RowForward | None = None  # made when first used
        self.initialize(initializer, random_state)

    def initialize(
        self,
        initializer: str | Initializer | Iterable[str | Initializer] = "sklearn",
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        """Draw all parameters anew, in place, as a new network with these arguments would have them.

        They are drawn in float64, layer by layer, a layer's weights before its bias, and rounded to the network's
        dtype. Batch normalisation begins with gamma 1, beta 0, means 0 and variances 1, whatever is drawn. A trainer's
        moments and step stay what they are: begin with a new trainer.

        Parameters
        ----------
        initializer : str, Initializer, or a sequence of them
            For all layers, or one for each.
        random_state : None, int or numpy.random.RandomState

        Raises
        ------
        ValueError, TypeError
            If an argument is not as described, what was drawn is not finite, or the parameters are read-only; the
            parameters are then unchanged.

        Examples
        --------
        >>> import fastbp
        >>> net = fastbp.Network((4, 3, 2), random_state=0)
        >>> net.initialize(["he_normal", "glorot_normal"], random_state=1)
        >>> net.biases[0]
        array([0., 0., 0.], dtype=float32)
        """
        initializers = as_initializers(initializer, self.layout.n_layers)
        generator = as_random_state(random_state)
        hidden = [function.name for function in self.functions[:-1]]
        hidden = hidden or [getattr(self.hidden_activation, "name", self.hidden_activation)]
        names = [*hidden, hidden[-1]]  # the output layer is drawn for the last one's
        shapes, pieces = list(pairwise(self.layer_sizes)), [function.pieces for function in self.functions]
        drawn = draw_layers(initializers, shapes, pieces, names, generator, self.dtype)
        self.check_writeable()
        for layer, (W, b) in enumerate(drawn):
            self.weights[layer][...] = W
            if self.bias:
                self.biases[layer][...] = 0 if self.layout.norms[layer] else b
        for vectors, start in ((self.gammas, 1), (self.running_means, 0), (self.running_variances, 1)):
            for vector in vectors:
                vector[...] = start

    def check_writeable(self) -> None:
        """Refuse to change parameters that their owner made read-only.

        Raises
        ------
        ValueError
            If they are.
        """
        if not (self.parameters.flags.writeable and self.buffer.flags.writeable):
            raise ValueError(
                "the network's parameters are read-only; set network.buffer.flags.writeable and "
                "network.parameters.flags.writeable to True"
            )

    def __repr__(self) -> str:
        sizes = "-".join(map(str, self.layer_sizes))
        hidden = "-".join(dict.fromkeys(map(str, self.functions[:-1]))) or "no hidden layers"
        return (
            f"<fastbp.Network {sizes}, {hidden}, {self.functions[-1]}, {self.dtype}, "
            f"{self.n_parameters} parameters, backend {self.backend!r}>"
        )

    @property
    def n_parameters(self) -> int:
        """Number of weights, biases and gammas (Book 4.1.4)."""
        return self.layout.size

    def forward(self, X: Any, *, check: bool = True) -> NDArray[Any]:
        """Return the outputs a^L of the network.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n, I)
        check : bool
            False where X is known to be a finite (n, I) matrix.

        Returns
        -------
        ndarray of shape (n, O), dtype of the network

        Raises
        ------
        ValueError
            If X is not a finite, numeric (n, I) matrix.
        """
        data = as_features(X, self.dtype, self.layer_sizes[0], check=check)
        backend = kernels.backend(self.backend, custom=self.is_custom)
        return forward(backend, self.layout, self.activations, self.buffer, data, self.n_threads)

    def predict_into(self, x: NDArray[Any], out: NDArray[Any]) -> None:
        """Write the outputs a^L for one row, or a few, to an array: in microseconds, for whoever predicts in a loop.

        Parameters
        ----------
        x : ndarray of shape (I,) or (n, I) with n at least 1, dtype of the network
            C-contiguous. It is not searched for NaN and infinity: they go through the network.
        out : ndarray of shape (O,) or (n, O), dtype of the network
            C-contiguous, apart from x and the parameters; written: the same numbers as those of `forward`.

        Raises
        ------
        ValueError
            If an array is not as described; ``out`` is then unchanged.

        Examples
        --------
        >>> import numpy as np
        >>> import fastbp
        >>> net, out = fastbp.Network((4, 3, 2), random_state=0), np.empty(2, "float32")
        >>> net.predict_into(np.ones(4, "float32"), out)
        >>> bool(out.sum().round(6) == 1)
        True
        """
        if not self._are_rows(x, out):
            raise ValueError(self._what_is_wrong(x, out))
        if self._row_forward is None or self._row_forward.backend.name != self.backend:
            backend = kernels.backend(self.backend, custom=self.is_custom)
            self._row_forward = RowForward(backend, self.layout, self.activations)
        if x.ndim == 2:
            x, out = x.reshape(-1), out.reshape(-1)
        self._row_forward(x, self.buffer, out)

    def _are_rows(self, x: Any, out: Any) -> bool:
        """Tell whether `predict_into` takes these arrays; most of its time goes here."""
        if type(x) is not np.ndarray or type(out) is not np.ndarray:
            return False
        shape = x.shape
        return (
            x.dtype == out.dtype == self.dtype
            and shape[-1:] == self.layer_sizes[:1]
            and out.shape == (*shape[:-1], self.layer_sizes[-1])
            and len(shape) <= 2
            and x.size > 0
            and x.flags.c_contiguous
            and out.flags.carray
            and not np.may_share_memory(x, out)
            and not np.may_share_memory(self.buffer, out)
        )

    def _what_is_wrong(self, x: Any, out: Any) -> str:
        n_inputs, n_outputs = self.layer_sizes[0], self.layer_sizes[-1]
        found = [
            f"{type(array).__name__} of shape {getattr(array, 'shape', None)} and dtype {getattr(array, 'dtype', None)}"
            for array in (x, out)
        ]
        return (
            f"x is a {found[0]}, out a {found[1]}; pass C-contiguous arrays of dtype {self.dtype}, apart from each "
            f"other and from the parameters: x of shape ({n_inputs},) or (n, {n_inputs}), and out, writable, of shape "
            f"({n_outputs},) or (n, {n_outputs}); n at least 1"
        )

    def predict(self, X: Any) -> NDArray[Any]:
        """Predict classes (softmax, logistic) or values.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n, I)

        Returns
        -------
        ndarray
            Softmax: class numbers (n,). Logistic: 0 or 1, of shape (n,) for one output, else (n, O). Other outputs: the
            values, of shape (n,) for one output, else (n, O).

        Raises
        ------
        ValueError
            If X is not a finite, numeric (n, I) matrix.
        """
        outputs = self.forward(X)
        if self.functions[-1].name == "softmax":
            return outputs.argmax(axis=1)
        if self.functions[-1].name == "logistic":
            outputs = (outputs > 0.5).astype(np.int64)
        return outputs[:, 0] if outputs.shape[1] == 1 else outputs

    def predict_proba(self, X: Any) -> NDArray[Any]:
        """Return the probability of each class.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n, I)

        Returns
        -------
        ndarray
            (n, O); for one logistic output (n, 2), the probabilities of 0 and 1.

        Raises
        ------
        ValueError
            If the output is neither softmax nor logistic, or X is not a finite, numeric (n, I) matrix.
        """
        if self.functions[-1].name not in ("softmax", "logistic"):
            raise ValueError(
                f"output {self.functions[-1].name!r} gives no probabilities; use forward(X), or build the network with "
                "output 'softmax' or 'logistic'"
            )
        outputs = self.forward(X)
        return np.hstack([1 - outputs, outputs]) if outputs.shape[1] == 1 else outputs

    def spec(self) -> dict[str, Any]:
        """Return what the network is built from, without parameters, backend and threads."""
        return {
            "layer_sizes": list(self.layer_sizes),
            "hidden_activation": to_plain(self.hidden_activation),
            "output": to_plain(self.output),
            "bias": self.bias,
            **self._more_spec(),
            "dtype": str(self.dtype),
        }

    def _more_spec(self) -> dict[str, Any]:
        """Return what a specification says of batch normalisation and dropout: nothing where there is none."""
        more: dict[str, Any] = {}
        if any(self.batch_norm):
            more["batch_norm"] = [None if norm is None else asdict(norm) for norm in self.batch_norm]
        if any(p < 1 for p in self.dropout):
            more["dropout"] = {"hidden": list(self.dropout[1:]), "inputs": self.dropout[0]}
        return more

    def __getstate__(self) -> dict[str, Any]:
        """Return what pickle and copy keep: the specification, a copy of the parameters, what a subclass added."""
        backend = {"backend": self.backend, "n_threads": self.n_threads}
        kept = {*self._fixed, *backend, "_row_forward"}
        added = {name: value for name, value in self.__dict__.items() if name not in kept}
        return {**self.spec(), **backend, "buffer": self.buffer.copy(), "added": added}

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        buffer, added = state.pop("buffer"), state.pop("added")
        try:
            kernels.backend(state["backend"])
        except ImportError:  # saved where another backend was available
            state["backend"] = "auto"
        Network.__init__(self, **state, initializer="zeros")  # what it draws would be written over
        self.buffer[...] = buffer
        self.__dict__.update(added)


def _as_layer_sizes(layer_sizes: Iterable[int]) -> tuple[int, ...]:
    try:
        sizes = tuple(operator.index(size) for size in layer_sizes)
    except TypeError:
        raise ValueError(
            f"layer_sizes is {layer_sizes!r}; pass whole numbers: inputs, hidden layers, outputs, as (784, 128, 10)"
        ) from None
    if len(sizes) < 2 or min(sizes) < 1:
        raise ValueError(f"layer_sizes is {sizes}; pass at least inputs and outputs, each of at least 1")
    return sizes


def _as_dtype(dtype: Any) -> np.dtype[Any]:
    try:
        found = np.dtype(dtype)
    except TypeError:
        found = None
    if found is None or found not in (np.float32, np.float64):
        raise ValueError(f"dtype is {dtype!r}; choose 'float32' or 'float64'")
    return found
