"""Plots of trainings and networks, with matplotlib: ``pip install "fastbp[plot]"``.

Every function draws into the axes that it is given, or into a figure of its own, and returns the axes; their figure is
``ax.figure``, with ``ax.figure.savefig("plot.png")``. Nothing is shown and pyplot is not touched, so that they work
without a screen.
"""

from __future__ import annotations

import importlib.util
import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .ranges import check_whole

if TYPE_CHECKING:
    from .callbacks import History
    from .diagnostics import Diagnostics, Probe, Valuation
    from .network import Network

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#000000")
"""Blue, vermilion, green, purple, black: told apart by the colour-blind (Okabe & Ito)."""

_LABELS = {
    "gradient_norm": ("Gradient of the weights by layer", "norm of the gradient"),
    "bias_gradient_norm": ("Gradient of the biases by layer", "norm of the gradient"),
    "relative_gradient": ("Gradient beside the weights, by layer", "norm of the gradient / norm of the weights"),
    "delta_norm": ("Error by layer", "norm of delta (root mean square over samples)"),
    "gradient_ratio": ("Gradient of the weights by layer, beside the last", "norm / norm in the output layer"),
    "delta_ratio": ("Error by layer, beside the last", "norm of delta / norm in the output layer"),
    "zero_activations": ("Activations at zero by layer", "share of activations (%)"),
    "dying_units": ("Dying units by layer: at zero for all samples", "share of units (%)"),
    "null_weights": ("Null weights by layer", "share of weights that are 0 (%)"),
    "small_weights": ("Small weights by layer", "share of weights up to {tolerance:g} from 0 (%)"),
    "n_dying": ("Dying units by layer: at zero for all samples", "number of units"),
    "n_null": ("Null weights by layer", "number of weights that are 0"),
    "n_weights": ("Weights by layer", "number of weights"),
    "error": ("Error by layer", "norm of E (root mean square over samples)"),
    "bound": ("Bound of the error by layer", "norm (root mean square over samples)"),
}
_SHARES = ("zero_activations", "dying_units", "null_weights", "small_weights", "positive")
_LINEAR = (*_SHARES, "n_dying", "n_null", "n_weights", "holds")


def loss_curves(history: History, ax: Any = None) -> Any:
    """Draw training and validation loss by epoch.

    Parameters
    ----------
    history : History
        What `fastbp.Trainer.fit` returned.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ImportError
        If matplotlib is missing; the message says how to get it.

    Examples
    --------
    >>> import numpy as np
    >>> import fastbp
    >>> trainer = fastbp.Trainer(fastbp.Network((4, 8, 2), random_state=0), random_state=0)
    >>> history = trainer.fit(np.eye(4), np.array([0, 1, 1, 0]), epochs=5)
    >>> fastbp.plots.loss_curves(history).get_ylabel()
    'mean loss'
    """
    ax = _axes(ax)
    curves = {"training": history.loss, "validation": history.validation_loss}
    for (name, curve), colour, marker in zip(curves.items(), _COLOURS, "os", strict=False):
        if curve:
            ax.plot(range(1, len(curve) + 1), curve, color=colour, label=name, **_points(marker, len(curve)))
    _finish(ax, "Loss by epoch", "epoch", "mean loss", log=_is_positive(history.loss, history.validation_loss))
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.legend(frameon=False)
    return ax


def by_layer(record: Diagnostics, measure: str = "gradient_norm", ax: Any = None) -> Any:
    """Draw a measure of a training, a line for each layer: over epochs, or over steps where it was taken between them.

    Norms are drawn on a logarithmic scale, shares in per cent.

    Parameters
    ----------
    record : Diagnostics
        The callback, after a training.
    measure : str
        ``"gradient_norm"``, ``"delta_norm"``, ``"zero_activations"``, ``"dying_units"``, ``"null_weights"``, ... as in
        ``record.as_dict()``.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ImportError
        If matplotlib is missing.
    KeyError
        If there is no such measure.

    Notes
    -----
    Cheng 9.3, P&P abstract.
    """
    values = record[measure] * (100 if measure in _SHARES else 1)
    ax = _axes(ax)
    by_step = record.every_n_steps is not None
    x = record.steps if by_step else record.epochs
    is_log = measure not in _LINEAR and _is_positive(values)
    for layer, (line, colour) in enumerate(zip(values.T, _shades(values.shape[1]), strict=True), start=1):
        shown = np.where(line > 0, line, np.nan) if is_log else line
        ax.plot(x, shown, color=colour, label=_layer_name(layer, values.shape[1]), **_points(_marker(layer), len(x)))
    title, label = _LABELS.get(measure, (f"{measure.replace('_', ' ').capitalize()} by layer", measure))
    _finish(ax, title, "steps" if by_step else "epoch", label.format(tolerance=record.tolerance), log=is_log)
    ax.xaxis.get_major_locator().set_params(integer=True)
    if measure in _SHARES:
        ax.set_ylim(bottom=-0.03 * max(1, values.max()), top=103 if values.max() > 40 else None)
    ax.legend(frameon=False, fontsize="small", ncols=math.ceil(values.shape[1] / 8))
    return ax


def valuation(found: Valuation, ax: Any = None) -> Any:
    """Draw the error of each layer with P&P's estimate, the exact form and the bound.

    Parameters
    ----------
    found : Valuation
        From `fastbp.diagnostics.valuation`.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ImportError
        If matplotlib is missing.

    Notes
    -----
    P&P (11)-(18).
    """
    ax = _axes(ax)
    layers = np.arange(1, len(found.error) + 1)
    lines = (
        ("bound: product of norms of W", found.bound, _COLOURS[4], "^", ":"),
        ("true error E", found.error, _COLOURS[0], "o", "-"),
        ("exact form, all U taken for positive", found.exact, _COLOURS[1], "x", "--"),
        ("estimate B X", found.estimate, _COLOURS[2], "s", "--"),
        ("estimate B X with ReLU masks", found.masked_estimate, _COLOURS[3], "D", "-."),
    )
    for name, values, colour, marker, style in lines:
        shown = np.where(values > 0, values, np.nan)
        ax.plot(layers, shown, linestyle=style, color=colour, marker=marker, linewidth=1.6, label=name)
    title = f"Valuation of the error by layer ({found.positive.mean():.0%} of U at least 0)"
    _finish(ax, title, "layer", "norm (root mean square over samples)", log=_is_positive(found.error))
    ax.set_xticks(layers)
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=2, frameon=False, fontsize="small")
    return ax


def confusion_matrix(y_true: Any, y_pred: Any, labels: Any = None, ax: Any = None) -> Any:
    """Draw how often samples of each class were taken for which.

    Parameters
    ----------
    y_true, y_pred : array-like of shape (n,)
        Classes and predicted classes.
    labels : sequence, optional
        The classes, in order; left out, those that occur.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ImportError
        If matplotlib is missing.
    ValueError
        If the arrays do not fit each other.
    """
    from sklearn.metrics import confusion_matrix as count
    from sklearn.utils.multiclass import unique_labels

    y_true, y_pred = np.asarray(y_true), np.asarray(y_pred)
    counts = count(y_true, y_pred, labels=labels)
    names = [str(label) for label in (unique_labels(y_true, y_pred) if labels is None else labels)]
    ax = _axes(ax, figsize=(6.4, 5.6))
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    image = ax.imshow(shares * 100, cmap="Blues", vmin=0, vmax=100)
    size = "small" if len(names) <= 12 else "xx-small"
    for (row, column), number in np.ndenumerate(counts):
        if number:
            colour = "white" if shares[row, column] > 0.5 else "black"
            ax.text(column, row, str(number), ha="center", va="center", color=colour, fontsize=size)
    ax.figure.colorbar(image, ax=ax, label="share of the true class (%)")
    ax.set(xticks=range(len(names)), yticks=range(len(names)), xticklabels=names, yticklabels=names)
    if max(map(len, names)) > 3:
        ax.tick_params(axis="x", rotation=45)
    ax.set(xlabel="predicted class", ylabel="true class")
    ax.set_title(f"Confusion matrix: {counts.trace()} of {counts.sum()} samples right")
    return ax


def first_layer_weights(network: Network, shape: tuple[int, int], n_units: int = 32, ax: Any = None) -> Any:
    """Draw the weights into each unit of the first layer as an image: which inputs it looks for.

    Parameters
    ----------
    network : Network
    shape : tuple (height, width)
        Of the images that the network takes: (28, 28).
    n_units : int
        At most so many units are drawn, those with the largest weights.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ImportError
        If matplotlib is missing.
    ValueError
        If the network's inputs do not make such images.
    """
    W = network.weights[0]
    height, width = shape
    if height * width != len(W):
        raise ValueError(f"shape is {shape}, {height * width} pixels, but the network has {len(W)} inputs; pass theirs")
    check_whole("n_units", n_units, 1)
    units = np.sort(np.argsort(-np.square(W).sum(axis=0), kind="stable")[:n_units])
    n_columns = math.ceil(math.sqrt(len(units) * height / width * 1.5))
    n_rows = math.ceil(len(units) / n_columns)
    mosaic = np.full((n_rows * (height + 1) - 1, n_columns * (width + 1) - 1), np.nan)
    for place, unit in enumerate(units):
        top, left = place // n_columns * (height + 1), place % n_columns * (width + 1)
        mosaic[top : top + height, left : left + width] = W[:, unit].reshape(shape)
    ax = _axes(ax, figsize=(8.0, 6.6 * mosaic.shape[0] / mosaic.shape[1] + 0.7))
    limit = float(np.abs(W[:, units]).max()) or 1.0
    image = ax.imshow(mosaic, cmap="RdBu_r", vmin=-limit, vmax=limit)
    ax.set_facecolor("0.35")  # between the images, where white would read as weights of 0
    ax.figure.colorbar(image, ax=ax, label="weight", pad=0.02)
    ax.set(xticks=[], yticks=[], xlabel=f"input pixels, {width} across", ylabel=f"input pixels, {height} down")
    ax.set_title(f"Weights of {len(units)} of the {W.shape[1]} units in layer 1")
    return ax


def activations(probe: Probe, bins: int = 50, ax: Any = None) -> Any:
    """Draw the distribution of the activations in each layer.

    Parameters
    ----------
    probe : Probe
        From `fastbp.diagnostics.probe`.
    bins : int
        How many, from the smallest activation of all layers to the largest.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ImportError
        If matplotlib is missing.
    ValueError
        If ``bins`` is no whole number of at least 1.
    """
    check_whole("bins", bins, 1)
    ax = _axes(ax)
    arrays = [layer.a.astype(np.float64).ravel() for layer in probe.layers]
    edges = np.histogram_bin_edges(np.concatenate(arrays), bins)
    for layer, (a, colour) in enumerate(zip(arrays, _shades(len(arrays)), strict=True), start=1):
        shares = 100 * np.histogram(a, edges)[0] / a.size
        label = f"{_layer_name(layer, len(arrays))}: {(a == 0).mean():.0%} at zero"
        style = ("-", "--", "-.", ":")[(layer - 1) % 4]
        shown = np.where(shares > 0, shares, np.nan)
        ax.stairs(shown, edges, color=colour, linewidth=1.8, linestyle=style, label=label)
    _finish(ax, f"Activations by layer, {probe.n_samples} samples", "activation a", "share of the layer (%)", log=True)
    ax.legend(frameon=False, fontsize="small")
    return ax


def new_axes(*shape: int, figsize: tuple[float, float] = (7.2, 4.5), **settings: Any) -> Any:
    """Return the axes of a new figure, without pyplot: one, or an array of them for ``(n_rows, n_columns)``.

    Raises
    ------
    ImportError
        If matplotlib is missing; the message says how to get it.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise ImportError("matplotlib is not installed; for plots run: pip install 'fastbp[plot]'")
    from matplotlib.figure import Figure

    return Figure(figsize=figsize, layout="constrained", dpi=120).subplots(*shape, **settings)


def _axes(ax: Any, **settings: Any) -> Any:
    return new_axes(**settings) if ax is None else ax


def _finish(ax: Any, title: str, xlabel: str, ylabel: str, *, log: bool) -> None:
    ax.set(title=title, xlabel=xlabel, ylabel=ylabel, yscale="log" if log else "linear")
    ax.grid(True, which="major", alpha=0.25)
    ax.spines[["top", "right"]].set_visible(False)


def _shades(n: int) -> NDArray[Any]:
    """Return a colour for each layer, dark below and light above: viridis, which also reads in grey."""
    from matplotlib import colormaps

    return np.asarray(colormaps["viridis"](np.linspace(0, 0.85, n)))


def _marker(layer: int) -> str:
    return "osD^vPX*"[(layer - 1) % 8]


def _points(marker: str, n: int) -> dict[str, Any]:
    """Return how a line of n points is drawn: with about ten markers."""
    return {"marker": marker, "markersize": 5, "markevery": max(1, n // 10), "linewidth": 1.6}


def _layer_name(layer: int, n: int) -> str:
    return f"layer {layer}" + (" (output)" if layer == n else "")


def _is_positive(*values: Any) -> bool:
    """Tell whether there is something to draw on a logarithmic scale."""
    return any(bool((np.asarray(numbers, np.float64) > 0).any()) for numbers in values)
