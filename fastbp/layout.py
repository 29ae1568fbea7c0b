"""Where parameters lie: one flat buffer, with layers as views into it."""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .kernels import NONE, ActivationFunction
from .layers import BatchNorm


@dataclass(frozen=True)
class Layout:
    """Where each layer's parameters lie in the flat buffer: all weights, then all biases, as scikit-learn packs them.

    Behind them come the gammas of layers with batch normalisation, whose beta is the bias. These are the parameters;
    running means and variances follow, which training finds, but no optimiser.

    Parameters
    ----------
    layer_sizes : tuple of int
        Inputs, hidden layers, outputs.
    bias : bool
    pieces : tuple of int
        For each layer, of how many linear pieces a unit takes the maximum (maxout); empty: of one, everywhere.
    batch_norm : tuple of BatchNorm or None
        For each layer; empty: none.
    """

    layer_sizes: tuple[int, ...]
    bias: bool = True
    pieces: tuple[int, ...] = ()
    batch_norm: tuple[BatchNorm | None, ...] = ()

    @property
    def n_layers(self) -> int:
        """Number of layers with weights."""
        return len(self.layer_sizes) - 1

    @functools.cached_property
    def widths(self) -> list[int]:
        """Number of linear outputs z of each layer: units times pieces."""
        pieces = self.pieces or (1,) * self.n_layers
        return [size * k for size, k in zip(self.layer_sizes[1:], pieces, strict=True)]

    @functools.cached_property
    def shapes(self) -> list[tuple[int, int]]:
        """Shape (inputs, linear outputs) of each layer's weights."""
        return list(zip(self.layer_sizes[:-1], self.widths, strict=True))

    @functools.cached_property
    def norms(self) -> list[BatchNorm | None]:
        """Each layer's batch normalisation."""
        return list(self.batch_norm or (None,) * self.n_layers)

    @functools.cached_property
    def weight_offsets(self) -> list[int]:
        """Offset of each layer's weights."""
        return _offsets(0, [i * o for i, o in self.shapes])[:-1]

    @functools.cached_property
    def bias_offsets(self) -> list[int]:
        """Offset of each layer's bias, `NONE` where there is none."""
        if not self.bias:
            return [NONE] * self.n_layers
        return _offsets(sum(i * o for i, o in self.shapes), self.widths)[:-1]

    @functools.cached_property
    def gamma_offsets(self) -> list[int]:
        """Offset of each layer's gamma, `NONE` where there is none."""
        start = sum(i * o for i, o in self.shapes) + (sum(self.widths) if self.bias else 0)
        return self._where_normalized(_offsets(start, self._normalized))

    @functools.cached_property
    def mean_offsets(self) -> list[int]:
        """Offset of each layer's running mean, `NONE` where there is none."""
        return self._where_normalized(_offsets(self.size, self._normalized))

    @functools.cached_property
    def variance_offsets(self) -> list[int]:
        """Offset of each layer's running variance, `NONE` where there is none."""
        return self._where_normalized(_offsets(self.size + sum(self._normalized), self._normalized))

    @functools.cached_property
    def size(self) -> int:
        """Number of parameters: (d + 1) m_1 + (m_1 + 1) m_2 + ... (Book 4.1.4)."""
        weights, biases = sum(i * o for i, o in self.shapes), sum(self.widths) if self.bias else 0
        return weights + biases + sum(self._normalized)

    @property
    def total_size(self) -> int:
        """Length of the flat buffer: parameters, running means and variances."""
        return self.size + 2 * sum(self._normalized)

    @functools.cached_property
    def _normalized(self) -> list[int]:
        """Each layer's width where it is normalised, else 0."""
        return [0 if norm is None else width for norm, width in zip(self.norms, self.widths, strict=True)]

    def _where_normalized(self, offsets: list[int]) -> list[int]:
        return [NONE if norm is None else start for norm, start in zip(self.norms, offsets, strict=False)]

    def table(self, activations: tuple[ActivationFunction, ...]) -> NDArray[np.int64]:
        """Return the layers as the kernels' ``predict_rows`` takes them."""
        n, pieces = self.n_layers, self.pieces or (1,) * self.n_layers
        functions = np.concatenate([activation.record() for activation in activations])
        epsilons = np.array([0.0 if norm is None else norm.epsilon for norm in self.norms])
        before = *np.transpose(self.shapes), self.weight_offsets, self.bias_offsets
        after = pieces, self.gamma_offsets, self.mean_offsets, self.variance_offsets, epsilons.view(np.int64)
        return np.vstack([*before, *functions.view(np.int64).reshape(n, -1).T, *after]).T.copy()

    def weights(self, flat: NDArray[Any]) -> list[NDArray[Any]]:
        """Return each layer's weights as views into a flat buffer."""
        offsets = zip(self.weight_offsets, self.shapes, strict=True)
        return [flat[start : start + i * o].reshape(i, o) for start, (i, o) in offsets]

    def biases(self, flat: NDArray[Any]) -> list[NDArray[Any]]:
        """Return each layer's bias as views into a flat buffer; none for a network without biases."""
        return self._vectors(flat, self.bias_offsets)

    def gammas(self, flat: NDArray[Any]) -> list[NDArray[Any]]:
        """Return the gamma of each layer that is normalised, as views into a flat buffer."""
        return self._vectors(flat, self.gamma_offsets)

    def means(self, flat: NDArray[Any]) -> list[NDArray[Any]]:
        """Return the running mean of each layer that is normalised, as views into a flat buffer."""
        return self._vectors(flat, self.mean_offsets)

    def variances(self, flat: NDArray[Any]) -> list[NDArray[Any]]:
        """Return the running variance of each layer that is normalised, as views into a flat buffer."""
        return self._vectors(flat, self.variance_offsets)

    def parameters(self, flat: NDArray[Any]) -> list[NDArray[Any]]:
        """Return all that an optimiser changes, in the buffer's order, as views: weights, biases, gammas."""
        return [*self.weights(flat), *self.biases(flat), *self.gammas(flat)]

    def running(self, flat: NDArray[Any]) -> list[NDArray[Any]]:
        """Return what lies behind the parameters, as views: running means, running variances."""
        return [*self.means(flat), *self.variances(flat)]

    @functools.cached_property
    def normalized(self) -> list[int]:
        """Which layers are normalised, counted from 0."""
        return [layer for layer, norm in enumerate(self.norms) if norm is not None]

    def _vectors(self, flat: NDArray[Any], offsets: list[int]) -> list[NDArray[Any]]:
        places = zip(offsets, self.widths, strict=True)
        return [flat[start : start + width] for start, width in places if start != NONE]


def _offsets(start: int, sizes: list[int]) -> list[int]:
    """Return where things of these sizes begin one behind the other, and where the last one ends."""
    return list(itertools.accumulate(sizes, initial=start))
