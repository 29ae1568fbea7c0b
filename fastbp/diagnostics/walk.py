"""The probe: a step plan walked row by row in Python, each row one unfused operation of a backend.

A training step keeps little of what it computes. Here nothing is overwritten: each layer's z, a, delta and gradient
stay, for a fixed batch, and what batch normalisation and dropout change in place is there before and after. The rows,
and their order, are the plan's own; an operation more in the plan is a line more in `_OPERATIONS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import kernels
from ..data import as_features, as_sample_weight, as_targets, is_sparse, n_samples
from ..fitted import NAMES
from ..kernels import NONE, Activation, ActivationFunction, Backend, Loss, LossFunction, Op, Source, step_table
from ..losses import as_loss, loss_function
from ..network import Network
from ..plan import Data, Plan, aligned_empty, gradient_plan
from ..ranges import check_choice, check_range, check_whole
from ..run import batch_scales
from ..trainer import Trainer

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Layer:
    """What a layer with weights did with a batch. Arrays of a probe without targets have no rows where it has none.

    Attributes
    ----------
    activation : ActivationFunction
    W, b : ndarray of shape (I, k O) and (k O,), or (0,) without bias
        Copies: training goes on in others. Maxout units have k pieces, all others k = 1; b of a normalised layer is its
        beta.
    gamma : ndarray of shape (k O,), or (0,) without batch normalisation
    a_prev : ndarray of shape (B, I)
        What the layer takes: activations of the layer below, or the samples; where units are dropped, after the mask.
    z : ndarray of shape (B, k O)
        Pre-activations a_prev W + b; of a normalised layer a_prev W.
    normalized, rstd : ndarray of shape (B, k O) and (k O,), or (0, k O) and (0,) without batch normalisation
        (z - mu) rstd with rstd = 1 / sqrt(s^2 + epsilon), mu and s^2 mean and variance over the batch.
    u : ndarray of shape (B, k O)
        What the activation is taken of: z, or gamma normalized + b.
    a : ndarray of shape (B, O)
        Activations, before any of them is dropped.
    delta : ndarray of shape (B, k O)
        d loss / d z of each sample, times its weight; not divided by the batch.
    delta_u : ndarray of shape (B, k O)
        d loss / d u likewise.
    grad_W, grad_b, grad_gamma : ndarray of the shapes of W, b and gamma
        Gradient of the batch's loss, penalty included.
    """

    activation: ActivationFunction
    W: Array
    b: Array
    gamma: Array
    a_prev: Array
    z: Array
    normalized: Array
    rstd: Array
    u: Array
    a: Array
    delta: Array
    delta_u: Array
    grad_W: Array
    grad_b: Array
    grad_gamma: Array

    @property
    def is_maxout(self) -> bool:
        """Whether units take the maximum of several pieces."""
        return self.u.shape[1] > self.a.shape[1]

    @property
    def pieces(self) -> Array:
        """What maxout units take the maximum of: u as a view of shape (B, k, O)."""
        return self.u.reshape(len(self.u), -1, self.a.shape[1])


@dataclass(frozen=True, eq=False)
class Probe:
    """What a network did with a batch, layer by layer; see `probe`.

    Attributes
    ----------
    layers : tuple of Layer
    loss : float
        Of the batch, penalty included; NaN without targets.
    loss_code : Loss
    y : ndarray of shape (B, O)
        Targets, one-hot where they came as class numbers; (0, O) without.
    sample_weight : ndarray of shape (B,), or (0,)
    scale : float
        What the samples' losses and gradients are multiplied by: 1 / (sum of the weights), or 1.
    backend : str
    operations : frozenset of Op
        What the plan consists of.
    """

    layers: tuple[Layer, ...]
    loss: float
    loss_code: Loss
    y: Array
    sample_weight: Array
    scale: float
    backend: str
    operations: frozenset[Op]

    @property
    def n_samples(self) -> int:
        """B."""
        return len(self.layers[0].a_prev)

    @property
    def weights(self) -> tuple[Array, ...]:
        """Each layer's W."""
        return tuple(layer.W for layer in self.layers)

    def need_targets(self, what: str) -> None:
        """Refuse to go on without targets.

        Raises
        ------
        ValueError
            If the probe has none.
        """
        if not len(self.y):
            raise ValueError(f"{what} needs targets, and this probe has none; make it with probe(network, X, y)")


def probe(
    model: Any,
    X: Any,
    y: Any = None,
    *,
    loss: Any = None,
    sample_weight: Any = None,
    alpha: float = 0.0,
    reduction: str = "mean",
    backend: str | None = None,
    dropout: bool = True,
    seed: int | None = None,
) -> Probe:
    """Send a batch forward through a network, and its error back, and keep everything; the network is left as it is.

    What is shown is a step of training, since errors and gradients belong to that: batch normalisation takes mean and
    variance of this batch, and units are dropped. (Prediction, `fastbp.Network.forward`, takes running means and
    variances and all units.) Running means and variances stay what they are, too.

    Parameters
    ----------
    model : Network, Trainer or fitted estimator
        Trained or not. A trainer brings its loss and backend; an estimator may be scikit-learn's own.
    X : array-like or sparse matrix of shape (n, I)
        The batch.
    y : array-like of shape (n,) or (n, O), optional
        Class numbers or targets. Without them there is no way back: no delta, gradient or loss.
    loss : str, callable or CustomLoss, optional
        Left out: the trainer's; or cross-entropy for softmax and logistic outputs, Poisson for exp, else squared error.
    sample_weight : array-like of shape (n,), optional
    alpha : float
        L2 penalty, as in `fastbp.Trainer.fit`.
    reduction : {"mean", "sum"}
        Whether loss and gradient are divided by the batch's weight sum.
    backend : str, optional
        Left out: the model's.
    dropout : bool
        False: nothing is dropped, whatever the network says.
    seed : int, optional
        Of dropout's masks, in [0, 2^53), with the masks of the first step; left out, 0, or for a trainer the masks of
        its own next step.

    Returns
    -------
    Probe

    Raises
    ------
    ValueError, TypeError
        If an argument is not as described.

    Notes
    -----
    P&P (2)-(10), Cheng (6)-(8), Book 4.4.

    Examples
    --------
    >>> import fastbp
    >>> net = fastbp.Network((2, 3, 1), output="identity", dtype="float64", random_state=0)
    >>> seen = fastbp.diagnostics.probe(net, [[1.0, 2.0], [0.0, 1.0]], [1.0, 0.0])
    >>> seen.layers[0].delta.shape, seen.layers[1].grad_W.shape
    ((2, 3), (3, 1))
    """
    network = as_network(model)
    batch = Batch.of(model, network, X, y, loss, sample_weight, alpha, reduction, backend, dropout, seed)
    walk = batch.walk(network.buffer)
    if batch.has_targets:
        walk.run()
    else:
        walk.run_to_outputs()
    return batch.probe(walk)


def as_network(model: Any) -> Network:
    """Return the network of a trainer, or one like a fitted estimator's.

    Raises
    ------
    TypeError
        If the model is none of these.
    """
    if isinstance(model, Network | Trainer):
        return model if isinstance(model, Network) else model.network
    if not (hasattr(model, "coefs_") and hasattr(model, "out_activation_")):
        raise TypeError(f"model is a {type(model).__name__}; pass a Network, a Trainer or a fitted MLP estimator")
    sizes = [*(len(W) for W in model.coefs_), model.coefs_[-1].shape[1]]  # maxout's W has more columns than units
    network = Network(
        sizes,
        model.activation,
        model.out_activation_,
        batch_norm=getattr(model, "batch_norm", False),
        dropout=getattr(model, "dropout", None),
        dtype=model.coefs_[0].dtype,
        initializer="zeros",
        backend=getattr(model, "backend", "auto"),
    )
    ours = network.weights, network.biases, network.gammas, network.running_means, network.running_variances
    for here, there in zip(ours, (getattr(model, name, ()) for name in NAMES), strict=True):
        for array, values in zip(here, there, strict=True):
            array[...] = values
    return network


def default_loss(network: Network) -> str:
    """Return the loss that goes best with a network's output."""
    usual = {"softmax": "cross_entropy", "logistic": "cross_entropy", "exp": "poisson"}
    return usual.get(network.functions[-1].name, "squared_error")


@dataclass(frozen=True, eq=False)
class Batch:
    """A batch made ready for one network: its plan, data and scale; parameters may change from walk to walk."""

    backend: Backend
    plan: Plan
    data: dict[str, Array]
    loss: LossFunction
    step: NDArray[np.void]
    activations: tuple[ActivationFunction, ...]

    @classmethod
    def of(
        cls,
        model: Any,
        network: Network,
        X: Any,
        y: Any,
        loss: Any,
        sample_weight: Any,
        alpha: float,
        reduction: str,
        backend: str | None,
        dropout: bool,
        seed: int | None,
    ) -> Batch:
        """Check everything, and return the batch for a network that stands for ``model``."""
        check_range("alpha", alpha, 0, np.inf, open_high=True)
        check_choice("reduction", reduction, ("mean", "sum"))
        if loss is None:
            loss = model.loss if isinstance(model, Trainer) else default_loss(network)
        function = LossFunction(Loss.SQUARED_ERROR)
        if y is not None:
            function = loss_function(as_loss(loss), network.functions[-1].name, network.dtype)
        data = as_features(X, network.dtype, network.layer_sizes[0])
        n, n_outputs = n_samples(data), network.layer_sizes[-1]
        nothing = {"y": np.empty((0, n_outputs), network.dtype), "classes": np.empty(0, np.int64)}
        data |= nothing if y is None else as_targets(y, network.dtype, n, n_outputs, function.code)
        data["sample_weight"] = as_sample_weight(sample_weight, network.dtype, n)
        form = Data(is_sparse(data), bool(data["classes"].size), bool(data["sample_weight"].size))
        kept = network.dropout if check_dropout(dropout) else ()
        plan = gradient_plan(network.layout, network.activations, function, n, form, dropout=kept)
        weights = data["sample_weight"][:, 0] if form.weighted else None
        step = step_table(1, **batch_scales(n, n, weights, reduction), l2=alpha, **_masks(model, seed))
        name = backend or (model.backend if isinstance(model, Trainer) else network.backend)
        is_custom = network.is_custom or function.code == Loss.CUSTOM
        return cls(kernels.backend(name, custom=is_custom), plan, data, function, step, network.activations)

    @property
    def has_targets(self) -> bool:
        """Whether there is a way back."""
        return bool(self.data["y"].size or self.data["classes"].size)

    def walk(self, params: Array) -> Walk:
        """Return a walk of the plan over this batch with some parameters."""
        return Walk(self, params)

    def layers(self, walk: Walk) -> tuple[Layer, ...]:
        """Return what a walk has seen of each layer."""
        return tuple(Layer(function, **seen) for function, seen in zip(self.activations, walk.layers, strict=True))

    def probe(self, walk: Walk) -> Probe:
        """Return what a walk has seen."""
        weight = self.data["sample_weight"][:, 0]
        scale, operations = float(self.step["grad_scale"][0]), frozenset(Op(op) for op in self.plan.rows["op"])
        loss = walk.loss if self.has_targets else float("nan")
        return Probe(self.layers(walk), loss, self.loss.code, walk.y, weight, scale, self.backend.name, operations)


def check_dropout(dropout: Any) -> bool:
    """Return whether units are to be dropped.

    Raises
    ------
    TypeError
        If it is no bool.
    """
    if not isinstance(dropout, bool | np.bool_):
        raise TypeError(f"dropout is {dropout!r}; pass True or False: the probabilities are the network's own")
    return bool(dropout)


def _masks(model: Any, seed: int | None) -> dict[str, int]:
    """Return the fields of `fastbp.kernels.STEP` that dropout's masks follow from."""
    if seed is None:
        return {"seed": model.seed, "number": model.n_steps} if isinstance(model, Trainer) else {"seed": 0, "number": 0}
    check_whole("seed", seed, 0)
    check_range("seed", seed, 0, 2**53, open_high=True)
    return {"seed": int(seed), "number": 0}


class Walk:
    """One walk of a plan: arrays by the place in the workspace that the plan gave them.

    Where a plan changes something in place that is still to be looked at, the walk changes a copy.

    Parameters
    ----------
    batch : Batch
    params : ndarray
        All parameters, running means and variances, in the network's layout; a walk works on a copy.

    Attributes
    ----------
    places : dict of int to ndarray
        What stands at an offset of the plan's workspace.
    layers : list of dict
        What each layer did.
    owners : dict of int to dict
        The layer that has the weights, or the gamma, at an offset of the parameters.
    gradient : ndarray
        By all parameters, in their layout; 0 for running means and variances.
    """

    def __init__(self, batch: Batch, params: Array) -> None:
        self.batch, self.backend, self.data = batch, batch.backend, batch.data
        self.params = aligned_empty(params.size, params.dtype)
        self.params[...] = params
        self.gradient = np.zeros_like(self.params)
        self.order = np.arange(batch.plan.batch_size)
        self.places: dict[int, Array] = {NONE: np.empty(0, params.dtype)}
        self.layers: list[dict[str, Array]] = []
        self.owners: dict[int, dict[str, Array]] = {}
        self.y = np.empty((0, batch.data["y"].shape[1]), params.dtype)
        self.data_loss = self.squares = 0.0

    @property
    def loss(self) -> float:
        """The batch's loss, penalty included."""
        step = self.batch.step[0]
        return float(step["grad_scale"] * (self.data_loss + 0.5 * step["l2"] * self.squares))

    def run(self) -> None:
        """Walk all rows."""
        for row in self.batch.plan.rows:
            self.step(row)

    def run_to_outputs(self) -> None:
        """Walk the rows before the loss, but for those that gather targets and their weights."""
        for row in self.batch.plan.rows:
            if row["op"] == Op.OUTPUT_DELTA:
                return
            if row["source"] in (NONE, Source.X):
                self.step(row)

    def run_to_loss(self) -> None:
        """Walk the rows until the loss is known, penalty included."""
        for row in self.batch.plan.rows:
            self.step(row)
            if row["op"] == Op.OUTPUT_DELTA:
                break
        if self.batch.step["l2"][0]:
            self.squares = sum(float(np.square(seen["W"], dtype=np.float64).sum()) for seen in self.layers)

    def step(self, row: Any) -> None:
        """Do what one row says.

        Raises
        ------
        NotImplementedError
            If the plan has an operation that is unknown here.
        """
        op = Op(row["op"])
        if op not in _OPERATIONS:
            raise NotImplementedError(f"the network's plan has a row {op.name}, which diagnostics do not know")
        _OPERATIONS[op](self, row)

    def new(self, row: Any, place: str, size: str) -> Array:
        """Return a fresh array for what a row writes at a place; ``size`` names the row's columns."""
        array = np.empty((len(self.order), int(row[size])), self.params.dtype)
        self.places[int(row[place])] = array
        return array

    def at(self, row: Any, place: str) -> Array:
        """Return what a row reads at a place."""
        return self.places[int(row[place])]

    def parameters(self, row: Any, flat: Array | None = None) -> tuple[Array, Array]:
        """Return W and b as a row names them, in the parameters or in an array with their layout."""
        flat = self.params if flat is None else flat
        n_in, n_out, W, b = (int(row[name]) for name in ("n_in", "n_out", "W", "b"))
        return flat[W : W + n_in * n_out].reshape(n_in, n_out), flat[:0] if b == NONE else flat[b : b + n_out]


def _gather_rows(walk: Walk, row: Any) -> None:
    names = {Source.X: "X", Source.Y: "y", Source.SAMPLE_WEIGHT: "sample_weight"}
    walk.backend.gather_rows(walk.data[names[Source(row["source"])]], walk.order, walk.new(row, "a", "n_out"))


def _gather_csr_rows(walk: Walk, row: Any) -> None:
    csr = (walk.data[name] for name in ("X_data", "X_indices", "X_indptr"))
    walk.backend.gather_csr_rows(*csr, walk.order, walk.new(row, "a", "n_out"))


def _gather_classes(walk: Walk, row: Any) -> None:
    walk.backend.gather_classes(walk.data["classes"], walk.order, walk.new(row, "a", "n_out"))


def _linear_forward(walk: Walk, row: Any) -> None:
    """Do product and activation one after the other: fused, they leave no z. Softmax has only the fused form."""
    a_prev, (W, b), activation = walk.at(row, "a_prev"), walk.parameters(row), _activation(row)
    z = walk.new(row, "a", "n_out")
    walk.backend.linear_forward(a_prev, W, b, Activation.IDENTITY, z)
    a = z if activation.code == Activation.IDENTITY else walk.new(row, "a", "n_out")
    if activation.code == Activation.SOFTMAX:
        walk.backend.linear_forward(a_prev, W, b, activation, a)
    elif a is not z:
        walk.backend.activate(z, activation, a, z[:0])
    no_vector, no_error = walk.params[:0], {"delta": z[:0], "delta_u": z[:0], "grad_W": W[:0]}
    unnormalized = {"gamma": no_vector, "normalized": z[:0], "rstd": no_vector, "u": z}
    no_gradient = {**no_error, "grad_b": no_vector, "grad_gamma": no_vector}
    walk.layers.append({"W": W, "b": b, "a_prev": a_prev, "z": z, "a": a, **unnormalized, **no_gradient})
    walk.owners[int(row["W"])] = walk.layers[-1]


def _batch_norm(walk: Walk, row: Any) -> None:
    """Normalise and activate one after the other, z in one array and what it becomes in another."""
    z, (gamma, beta), activation = walk.at(row, "a_prev"), walk.parameters(row), _activation(row)
    normalized, rstd = walk.new(row, "saved", "n_out"), np.empty(int(row["n_out"]), walk.params.dtype)
    walk.places[int(row["rstd"])] = rstd
    mean, variance = (walk.params[row[name] : row[name] + row["n_out"]] for name in ("mean", "variance"))
    u = walk.new(row, "a", "n_out")
    known = float(row["epsilon"]), float(row["momentum"]), Activation.IDENTITY
    walk.backend.batch_norm(z, gamma[0], beta, *known, normalized, rstd, mean, variance, u)
    a = u if activation.code == Activation.IDENTITY else walk.new(row, "a", "n_out")
    if a is not u:
        walk.backend.activate(u, activation, a, u[:0])
    layer = walk.owners[int(row["W"])] = walk.layers[-1]  # the row stands behind its layer's product
    layer.update(b=beta, gamma=gamma[0], normalized=normalized, rstd=rstd, u=u, a=a)


def _activate(walk: Walk, row: Any) -> None:
    z = walk.at(row, "a_prev")
    a, saved = walk.new(row, "a", "n_out"), walk.new(row, "saved", "n_out")
    walk.backend.activate(z, _activation(row), a, saved)
    walk.layers[-1]["a"] = a


def _maxout(walk: Walk, row: Any) -> None:
    z, a = walk.at(row, "a_prev"), walk.new(row, "a", "n_out")
    walk.backend.maxout(z, a)
    walk.layers[-1]["a"] = a


def _dropout(walk: Walk, row: Any) -> None:
    """Drop units of a copy: their layer keeps them all."""
    a, activation = walk.at(row, "a"), _activation(row)
    kept = walk.places[int(row["a"])] = a.copy()
    saved = a[:0]
    if row["saved"] != NONE:
        saved = walk.at(row, "saved").copy() if activation.is_kept else np.empty_like(a)
        walk.places[int(row["saved"])] = saved
    known = float(row["probability"]), int(row["stream"]), walk.batch.step
    walk.backend.dropout(kept, activation, *known, saved)


def _output_delta(walk: Walk, row: Any) -> None:
    walk.y, weight = walk.at(row, "y"), walk.at(row, "weight").reshape(-1)
    known = walk.at(row, "a"), walk.y, weight, _activation(row), walk.batch.loss
    walk.data_loss += walk.backend.output_delta(*known, walk.new(row, "delta", "n_out"))


def _activation_delta(walk: Walk, row: Any) -> None:
    walk.backend.activation_delta(walk.at(row, "a_prev"), _activation(row), walk.at(row, "delta"))


def _maxout_delta(walk: Walk, row: Any) -> None:
    walk.backend.maxout_delta(walk.at(row, "a_prev"), walk.at(row, "delta"), walk.new(row, "delta_prev", "n_in"))


def _batch_norm_delta(walk: Walk, row: Any) -> None:
    layer, delta_u = walk.owners[int(row["W"])], walk.at(row, "delta")
    delta = walk.new(row, "delta", "n_out")
    delta[...] = delta_u
    grad_gamma, grad_beta = walk.parameters(row, walk.gradient)
    known = layer["normalized"], layer["rstd"], layer["gamma"], walk.batch.step
    walk.backend.batch_norm_delta(*known, delta, grad_gamma[0], grad_beta)
    layer.update(delta_u=delta_u, grad_gamma=grad_gamma[0], grad_b=grad_beta)


def _backprop_delta(walk: Walk, row: Any) -> None:
    below = walk.at(row, "a_prev"), _activation(row), walk.new(row, "delta_prev", "n_in")
    walk.backend.backprop_delta(walk.at(row, "delta"), walk.parameters(row)[0], *below)


def _linear_grad(walk: Walk, row: Any) -> None:
    layer, delta = walk.owners[int(row["W"])], walk.at(row, "delta")
    grad_W, grad_b = walk.parameters(row, walk.gradient)
    walk.squares += walk.backend.linear_grad(layer["a_prev"], delta, walk.batch.step, layer["W"], grad_W, grad_b)
    layer.update(delta=delta, grad_W=grad_W)
    if not layer["gamma"].size:
        layer.update(delta_u=delta, grad_b=grad_b)


_OPERATIONS: dict[Op, Callable[[Walk, Any], None]] = {
    Op.GATHER_ROWS: _gather_rows,
    Op.GATHER_CSR_ROWS: _gather_csr_rows,
    Op.GATHER_CLASSES: _gather_classes,
    Op.LINEAR_FORWARD: _linear_forward,
    Op.BATCH_NORM: _batch_norm,
    Op.ACTIVATE: _activate,
    Op.MAXOUT: _maxout,
    Op.DROPOUT: _dropout,
    Op.OUTPUT_DELTA: _output_delta,
    Op.ACTIVATION_DELTA: _activation_delta,
    Op.MAXOUT_DELTA: _maxout_delta,
    Op.BATCH_NORM_DELTA: _batch_norm_delta,
    Op.BACKPROP_DELTA: _backprop_delta,
    Op.LINEAR_GRAD: _linear_grad,
}


def _activation(row: Any) -> ActivationFunction:
    code = Activation(row["activation"])
    return ActivationFunction(code, int(row["function"]), float(row["parameter"]), float(row["at_zero"]))
