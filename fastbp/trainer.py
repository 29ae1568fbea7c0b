"""The trainer: epochs of mini-batches over a network."""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import kernels
from .callbacks import Callback, History, TrainingState
from .class_weight import weigh_classes
from .data import as_features, as_sample_weight, as_targets, is_ready, is_sparse, n_samples, on_host
from .gpu import as_device, as_precision, check_precision, on_device
from .kernels import LossFunction
from .losses import CustomLoss, as_loss, loss_function
from .network import Fixed, Network
from .optimizers import Optimizer, as_optimizer
from .pace import Pace
from .plan import Data, aligned_empty, run_buffers, training_plan
from .ranges import check_choice, check_range, check_whole
from .run import NonFinite, Run, StepRecords, batch_scales
from .schedules import Plateau, Schedule, Span, as_schedule, scale
from .stream import Stream, as_step
from .threads import threads_for


class Trainer(Fixed):
    """Trains a network by mini-batch gradient descent and back-propagation (Cheng algorithm 9.1, Book 4.6).

    Parameters
    ----------
    network : Network
        Its parameters are updated in place.
    loss : {"cross_entropy", "squared_error", "poisson"}, CustomLoss or callable
        Cross-entropy goes with softmax and logistic outputs, Poisson with exp and softplus, squared error with all but
        sign. A Python function of an output a and a target y, numbers both, becomes a `CustomLoss`.
    optimizer : str or Optimizer
        ``"sgd"``, ``"adam"``, ``"adamw"``, ``"nadam"``, ``"rmsprop"``, ``"adagrad"``, or an object such as
        ``fastbp.Adam(1e-3, beta_1=0.8)``.
    learning_rate : float, optional
        For an optimiser given by name.
    schedule : str or Schedule, optional
        Factors of the optimiser's learning rate: ``"cosine"``, ``"one_cycle"`` and the others of
        `fastbp.schedules.SCHEDULES`, or an object such as ``fastbp.schedules.StepDecay(30)``. They go by the steps done
        so far, from fit to fit.
    clip_value : float, optional
        Each element of the gradient is clipped to [-clip_value, clip_value] (Cheng 9.3.3, Book 4.5.2).
    clip_norm : float, optional
        The whole gradient is scaled down to this norm where it has a larger one.
    average_decay : float, optional
        In [0, 1): after each step average = average_decay average + (1 - average_decay) parameters; see `averaged`.
    batch_size : int or "full"
        Samples of a mini-batch; ``"full"`` or None: all of them at once (full-batch gradient descent).
    backend : str
        ``"auto"``, ``"cython"``, ``"numba"``, ``"numpy"`` or ``"cuda"``. Only numba has custom activations and losses,
        and ``"auto"`` is never the GPU.
    n_threads : int, optional
        The most threads to take; left out, as many as the system and its settings allow.
    device : int, optional
        Number of the GPU, for backend ``"cuda"``; left out, the current one of the thread that calls.
    precision : {"tf32"}, optional
        For backend ``"cuda"`` and networks of float32: products by tensor cores, of numbers rounded to TF32 (10 bits
        behind the point), with sums in float32. Left out, products in the network's own dtype.
    random_state : None, int or numpy.random.Generator
        For the order of the samples, and for what dropout drops.

    Attributes
    ----------
    n_steps : int
        Steps done so far.
    plateau : Plateau
        What a schedule that goes by losses has seen of them.
    m, v : ndarray of shape (n_parameters,)
        The optimiser's moments (momentum: m holds the velocity), in the layout of ``network.parameters``.
    average : ndarray of shape (n_parameters,), or (0,)
        The moving average of the parameters, if ``average_decay`` was given; at first the parameters themselves.

    Raises
    ------
    ValueError
        If an argument is not as described, or loss and output do not go together.
    ImportError
        If the backend is not available.

    Examples
    --------
    >>> import numpy as np
    >>> import fastbp
    >>> X, y = np.eye(4, dtype="float32"), np.array([0, 1, 1, 0])
    >>> net = fastbp.Network((4, 8, 2), random_state=0)
    >>> trainer = fastbp.Trainer(net, optimizer="adam", learning_rate=0.05, batch_size=4, random_state=0)
    >>> history = trainer.fit(X, y, epochs=50)
    >>> net.predict(X)
    array([0, 1, 1, 0])
    """

    _fixed = (
        *("network", "loss", "step", "batch_size", "backend", "optimizer", "schedule", "m", "v"),
        *("clip_value", "clip_norm", "average_decay", "average"),
    )

    def __init__(
        self,
        network: Network,
        *,
        loss: str | CustomLoss | Callable[[Any, Any], Any] = "cross_entropy",
        optimizer: str | Optimizer = "adam",
        learning_rate: float | None = None,
        schedule: str | Schedule | None = None,
        clip_value: float | None = None,
        clip_norm: float | None = None,
        average_decay: float | None = None,
        batch_size: int | str | None = 32,
        backend: str = "auto",
        n_threads: int | None = None,
        device: int | None = None,
        precision: str | None = None,
        random_state: int | np.random.Generator | None = None,
    ) -> None:
        if not isinstance(network, Network):
            raise TypeError(f"network is a {type(network).__name__}; pass a fastbp.Network")
        self.network, self.loss, self.batch_size = network, as_loss(loss), _as_batch_size(batch_size)
        loss_function(self.loss, network.functions[-1].name, network.dtype)  # refuses what does not go together
        self.optimizer = as_optimizer(optimizer, learning_rate)
        self.schedule, self.plateau = as_schedule(schedule), Plateau()
        for name, value in {"clip_value": clip_value, "clip_norm": clip_norm}.items():
            if value is not None:
                check_range(name, value, 0, np.inf, open_low=True, open_high=True)
        if average_decay is not None:
            check_range("average_decay", average_decay, 0, 1, open_high=True)
        self.clip_value, self.clip_norm, self.average_decay = clip_value, clip_norm, average_decay
        self._is_custom = network.is_custom or isinstance(self.loss, CustomLoss)
        self.backend = kernels.backend(backend, custom=self._is_custom).name
        self.n_threads = None if n_threads is None else kernels.check_n_threads(n_threads)
        self.device, self.precision = as_device(device, self.backend), as_precision(precision, self.backend)
        check_precision(self.precision, network.dtype, "the network's dtype")
        self.random_state = _as_generator(random_state)
        self._drops = any(p < 1 for p in network.dropout)
        self._seed = int(self.random_state.integers(2**53)) if self._drops else 0  # of all masks
        self.n_steps = 0
        self._m, self._v = (aligned_empty(network.n_parameters, network.dtype) for _ in range(2))
        self._m[...] = self._v[...] = 0
        self.average = aligned_empty(0 if average_decay is None else network.n_parameters, network.dtype)
        self.average[...] = network.parameters[: self.average.size]
        self._workspaces: list[dict[str, NDArray[Any]]] = [{}]  # the only one is away while a fit runs
        self._stream: Stream | None = None  # of the last `step`
        self._pace: Pace | None = None  # of the last fit: the next one begins with what it learned
        self._records = StepRecords()
        self._last: Run | None = None  # whose workspace has newer moments
        self._moments_are_known = False  # to others, who must find them up to date

    def __repr__(self) -> str:
        return (
            f"<fastbp.Trainer of {self.network!r}, loss {self.loss!r}, {self.optimizer!r}, "
            + ("" if self.schedule is None else f"{self.schedule!r}, ")
            + f"batch_size {self.batch_size}, {self.n_steps} steps done, backend {self.backend!r}>"
        )

    @property
    def _kernels(self) -> kernels.Backend:
        return kernels.backend(self.backend, custom=self._is_custom)

    @property
    def _loss_function(self) -> LossFunction:
        return loss_function(self.loss, self.network.functions[-1].name, self.network.dtype)

    @property
    def m(self) -> NDArray[Any]:
        """First moments, or the velocity."""
        self._publish_moments()
        return self._m

    @property
    def v(self) -> NDArray[Any]:
        """Second moments."""
        self._publish_moments()
        return self._v

    def _publish_moments(self) -> None:
        self._moments_are_known = True
        self._sync_last()

    def _sync_last(self) -> None:
        if self._last is not None:
            with on_device(self.device, self.precision):
                self._last.sync()
            self._last = None

    def fit(
        self,
        X: Any,
        y: Any,
        *,
        epochs: int = 1,
        sample_weight: Any = None,
        class_weight: Any = None,
        validation_data: tuple[Any, Any] | None = None,
        callbacks: Iterable[Callback] = (),
        shuffle: bool = True,
        alpha: float = 0.0,
        reduction: str = "mean",
        progress: bool = False,
    ) -> History:
        """Train; a second call goes on where the first ended.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n, I)
        y : array-like of shape (n,) or (n, O)
            Class numbers, or a matrix of targets.
        epochs : int
        sample_weight : array-like of shape (n,), optional
            At least 0.
        class_weight : "balanced" or dict of int to float, optional
            Factors of the sample weights by class, as scikit-learn's: balanced, n / (K n_k) for a class with n_k of the
            n samples, where K classes occur; a class that is not in the dict weighs 1.
        validation_data : tuple (X, y), optional
            Its loss is taken after each epoch.
        callbacks : iterable of Callback
        shuffle : bool
            Draw a new order of the samples for each epoch.
        alpha : float
            L2 penalty, at least 0: 0.5 alpha sum W^2 divided by the batch's weight sum is added to its loss.
        reduction : {"mean", "sum"}
            Whether a batch's loss and gradient are divided by its weight sum.
        progress : bool
            Show epochs, loss and time left on a terminal or in a notebook.

        Returns
        -------
        History
            Of this call.

        Raises
        ------
        ValueError
            If an argument is not as described (the network is then unchanged), or if training diverged.
        ZeroDivisionError
            If the sample weights of a mini-batch sum to 0.
        """
        _check_fit(epochs, alpha, reduction)
        if self.schedule is not None and self.schedule.monitor == "validation_loss" and validation_data is None:
            raise ValueError(
                "the schedule goes by the validation loss; pass validation_data=(X, y) to fit, or monitor='loss'"
            )
        callbacks = _as_callbacks(callbacks, progress)
        on_the_way = self._checks_on_the_way(X) and not callbacks and validation_data is None
        with ExitStack() as ends:
            ends.enter_context(on_device(self.device, self.precision))
            data = self._data(X, y, sample_weight, check=not on_the_way)
            if class_weight is not None:
                data["sample_weight"] = weigh_classes(class_weight, data, self.network.activations[-1].code)
            validation = None if validation_data is None else self._data(*_as_pair(validation_data), None)
            self._check_writeable()
            workspace = ends.enter_context(self._workspace())
            if callbacks or on_the_way:  # they look at the moments; a run that is given up finds them as they were
                self._sync_last()
            if self.n_steps == 0 and self.average.size:
                self.average[...] = self.network.parameters
            run = self._run(data, workspace, not on_the_way)
            state = TrainingState(self, int(epochs), step=self.n_steps, validation_data=validation_data)
            for callback in callbacks:
                callback.on_train_begin(state)
                ends.callback(callback.on_train_end, state)
            with self._undoing(run, state, X if on_the_way else None):
                while state.epoch < epochs and not state.stop_training:
                    self._epoch(run, state, callbacks, shuffle, alpha, reduction, validation)
        if not np.isfinite(self.network.buffer).all():
            raise ValueError(
                "Solver produced non-finite parameter weights. The input data may contain large values and need to be "
                "preprocessed."
            )
        return state.history

    def step(self, x: Any, y: Any, *, alpha: float = 0.0) -> float:
        """Take one step on a sample as it comes, or on a few: online learning over a stream.

        Parameters
        ----------
        x : array-like of shape (I,), or (n, I) for one step on n samples
        y : int or array-like of shape (O,); for n samples (n,) or (n, O)
            Class number, or targets.
        alpha : float
            L2 penalty, as for `fit`.

        Returns
        -------
        float
            The loss before the step, penalty included: the mean over n samples. NaN or infinite once the training has
            diverged, which a stream does not stop for.

        Raises
        ------
        ValueError
            If an argument is not as described, or the trainer has a schedule that needs to know where it ends, or
            counts epochs, of which a stream has none; nothing has changed then.

        Notes
        -----
        Porr 2-6: the delta rule over time; Cheng algorithm 9.1, line by line. What a step needs is prepared by the
        first one; a small network learns from a sample in some 30 microseconds with the Cython backend, 50 with Numba,
        most of them Python's. `fit` with ``batch_size=1`` takes less than one for samples that are there already.

        Examples
        --------
        >>> import fastbp
        >>> net = fastbp.Network((1, 1), output="identity", random_state=0)
        >>> trainer = fastbp.Trainer(net, loss="squared_error", optimizer="sgd", learning_rate=0.5)
        >>> losses = [trainer.step([t % 3], [2 * (t % 3) + 1]) for t in range(100)]
        >>> float(net.forward([[10]]).round(3)[0, 0])
        21.0
        """
        _check_fit(1, alpha, "mean")
        self._check_writeable()
        if self.schedule is not None and self.schedule.counts_epochs:
            raise ValueError(
                f"the trainer's schedule {self.schedule!r} goes by epochs, and samples as they come have none; pass "
                "unit='step' to it, or the samples to fit"
            )
        values = {"l2": alpha, **self._step_values(1, None)}
        with self._workspace() as workspace, on_device(self.device, self.precision):
            stream = self._stream_with(x, y, workspace)
            if self.n_steps == 0 and self.average.size:
                self.average[...] = self.network.parameters
            try:
                return stream.step(values, self._moments_are_known)
            finally:
                self.n_steps += stream.run.n_done
                self._last = stream.run if stream.run.has_moments else None

    def _stream_with(self, x: Any, y: Any, workspace: dict[str, NDArray[Any]]) -> Stream:
        """Return a stream with samples in place: the last one, or a new one where they have other shapes."""
        stream = self._stream if self._stream is not None and self._stream.fits(workspace) else None
        if stream is not None and self._last is not stream.run:
            self._sync_last()  # a fit came in between: the moments are where their owner looks for them
            stream.run.has_moments = False
        if stream is not None and stream.takes(x, y):
            return stream
        data = self._data(*as_step(x, y), None)
        if stream is None or not stream.put(data):
            own = {name: array.copy() for name, array in data.items()}
            n_classes = self.network.layer_sizes[-1] if data["classes"].size else 0
            stream = self._stream = Stream(self._run(own, workspace, checked=False), n_classes)
        return stream

    @property
    def seed(self) -> int:
        """Seed of dropout's masks: they follow from it, from the steps done and from the unit."""
        return self._seed

    @contextmanager
    def _undoing(self, run: Run, state: TrainingState, unchecked: Any) -> Iterator[None]:
        """Undo the epochs inside where they are refused half-way; bring home what they learned where they are not.

        ``unchecked`` are the samples that kernels look at on the way, if they do.
        """
        rewind = self._rewind()
        try:
            yield
        except KeyboardInterrupt:
            warnings.warn("Training interrupted by user.", stacklevel=4)  # where fit was called
        except ZeroDivisionError:
            if state.epoch == 1 and run.n_done == 0:  # for the weights of a batch, before any step
                rewind()
            raise
        except NonFinite:
            if unchecked is not None:  # else a callback's
                run.discard()
                rewind()
                as_features(unchecked, self.network.dtype)  # says what is wrong
            raise
        finally:
            run.sync(self._moments_are_known)
            self._last = run.without_data() if run.has_moments else None

    def averaged(self) -> Network:
        """Return a copy of the network that has the moving average of the parameters for its own.

        Raises
        ------
        ValueError
            If the trainer keeps none.
        """
        if self.average_decay is None:
            raise ValueError("this trainer keeps no average; make it with average_decay=0.999, say")
        network = copy.copy(self.network)
        network.parameters[...] = self.average
        return network

    def evaluate(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the mean loss on data, without penalty.

        Parameters
        ----------
        X, y, sample_weight
            As for `fit`.

        Raises
        ------
        ValueError
            If an argument is not as described.
        """
        return self._mean_loss(self._data(X, y, sample_weight))

    def _check_writeable(self) -> None:
        """Refuse to train what its owner made read-only."""
        self.network.check_writeable()
        for name, array in {"m": self._m, "v": self._v, "average": self.average}.items():
            if not array.flags.writeable:
                raise ValueError(f"the trainer's {name} is read-only; set trainer.{name}.flags.writeable = True")

    def _checks_on_the_way(self, X: Any) -> bool:
        """Tell whether the kernels may look for NaN and infinity while they gather X, rather than we before.

        That spares X a pass through memory. A run that comes upon one is given up, and changed nothing: its moments
        must come from where they are kept, then, which is dear for large networks.
        """
        if not is_ready(X, self.network.dtype) or not self._kernels.module.PACKS:
            return False
        return X.size >= 5 * self.optimizer.n_moments * self.network.n_parameters

    @contextmanager
    def _workspace(self) -> Iterator[dict[str, NDArray[Any]]]:
        """Take the workspace of this trainer's last fit for as long as this one runs."""
        try:
            workspace = self._workspaces.pop()
        except IndexError:
            raise RuntimeError(
                "this trainer is training already, in another thread or in a callback; make one for each"
            ) from None
        try:
            yield workspace
        finally:
            self._workspaces.append(workspace)

    def _rewind(self) -> Callable[[], None]:
        """Return what sets the steps done, and the generator of the samples' order, to what they are now."""
        step, generator = self.n_steps, self.random_state.bit_generator
        generator_state = generator.state

        def rewind() -> None:
            self.n_steps, generator.state = step, generator_state

        return rewind

    def _data(self, X: Any, y: Any, sample_weight: Any, check: bool = True) -> dict[str, NDArray[Any]]:
        """Return samples, targets and weights as the buffers of a run."""
        network = self.network
        n_inputs, n_outputs = network.layer_sizes[0], network.layer_sizes[-1]
        data = as_features(X, network.dtype, n_inputs, check=check)
        n = n_samples(data)
        data.update(as_targets(y, network.dtype, n, n_outputs, self._loss_function.code))
        if isinstance(self.loss, CustomLoss):
            self.loss.check_targets(np.array([0, 1]) if data["classes"].size else data["y"])
        data["sample_weight"] = as_sample_weight(sample_weight, network.dtype, n)
        return data

    def _run(self, data: dict[str, NDArray[Any]], workspace: dict[str, NDArray[Any]], checked: bool = True) -> Run:
        """Return the steps on some data; their workspace is kept in ``workspace`` for the next fit."""
        network, backend = self.network, self._kernels
        form = Data(is_sparse(data), bool(data["classes"].size), bool(data["sample_weight"].size), checked)
        n = n_samples(data)
        batch_size = min(self.batch_size, n) if isinstance(self.batch_size, int) else n
        codes = network.activations, self._loss_function, self.optimizer.rule
        clips_norm, averages = self.clip_norm is not None, bool(self.average.size)
        more: dict[str, Any] = {"clips_norm": clips_norm, "averages": averages, "dropout": network.dropout}
        plan = training_plan(network.layout, *codes, batch_size, form, **more)
        state = {"params": network.buffer, "average": self.average}
        if self.optimizer.n_moments:
            state |= {"m": self._m, "v": self._v}
        if clips_norm:
            state["grads"] = aligned_empty(network.n_parameters, network.dtype)
        n_threads = threads_for(self.n_threads, plan.flops)
        buffers = run_buffers(plan, backend, data, state, n_threads, workspace)
        workspace.update(work=buffers.work, scratch=buffers.scratch)
        self._pace = pace = self._pace if self._pace and self._pace.is_for(plan, n_threads) else Pace(plan, n_threads)
        run, last, self._last = Run(backend, plan, buffers, pace), self._last, None
        if last is not None and last.buffers.scratch is buffers.scratch:
            run.has_moments = True
        elif last is not None:
            last.sync()
        return run

    def _epoch(
        self,
        run: Run,
        state: TrainingState,
        callbacks: Sequence[Callback],
        shuffle: bool,
        alpha: float,
        reduction: str,
        validation: dict[str, NDArray[Any]] | None,
    ) -> None:
        """Run one epoch and enter it in the history."""
        start = time.perf_counter()
        state.epoch += 1
        for callback in callbacks:
            callback.on_epoch_begin(state)
        if state.stop_training:
            return
        data = run.buffers._asdict()
        n, first = n_samples(data), self.n_steps
        n_steps = -(-n // run.plan.batch_size)
        last_step = first + n_steps * (state.n_epochs - state.epoch + 1)
        values = self._step_values(n_steps, last_step)
        order = self._shuffled(n) if shuffle else np.arange(n)
        weights = data["sample_weight"][order, 0] if data["sample_weight"].size else None
        scales = batch_scales(n, run.plan.batch_size, weights, reduction)
        table = self._records.of(n_steps, scales, {"l2": alpha}, values)

        def on_cut(done: int) -> bool:
            self.n_steps = state.step = first + done
            for callback in callbacks:
                if callback.every_n_steps and state.step % callback.every_n_steps == 0:
                    run.sync()
                    callback.on_step_end(state)
            return state.stop_training

        try:
            run.steps(order, table, on_cut, _cut_points(callbacks, first))
        finally:
            self.n_steps = state.step = first + run.n_done
        if callbacks or validation is not None:
            run.sync(moments=bool(callbacks))
        n_seen = min(run.n_done * run.plan.batch_size, n)
        state.history.loss.append(float(run.losses[:2].sum()) / (n_seen if reduction == "mean" else 1))
        if validation is not None:
            state.history.validation_loss.append(self._mean_loss(validation))
        state.enter_scores()
        state.history.seconds.append(time.perf_counter() - start)
        factors = self._rate_factors(first, n_steps, last_step)
        factor = 1.0 if factors is None else float(factors[run.n_done - 1])
        state.history.learning_rate.append(float(self.optimizer.learning_rate) * factor)
        if self.schedule is not None:
            self.plateau = self.schedule.after_epoch(self.plateau, state.history)
        for callback in callbacks:
            callback.on_epoch_end(state)

    def _step_values(self, n_steps: int, last_step: int | None) -> dict[str, Any]:
        """Return what the records of the next steps hold, of a fit that ends at a step, beside scales and penalty."""
        first = self.n_steps
        values = scale(self.optimizer.step_values(first, n_steps), self._rate_factors(first, n_steps, last_step))
        limits = {"clip": self.clip_value or 0, "max_norm": self.clip_norm or 0}
        masks = {"seed": self._seed, "number": first + np.arange(n_steps)} if self._drops else {}
        return {**values, **limits, **masks, "average_decay": self.average_decay or 0}

    def _rate_factors(self, first: int, n_steps: int, last_step: int | None) -> NDArray[np.float64] | None:
        """Return the schedule's factors for an epoch's steps of a fit that ends at a step; None without a schedule."""
        if self.schedule is None:
            return None
        return self.schedule.factors(first, n_steps, Span(n_steps, last_step), self.plateau)

    def _shuffled(self, n: int) -> NDArray[np.int64]:
        """Return an epoch's order of the samples; of thousands, NumPy's own shuffle takes three times as long."""
        order = np.empty(n, np.int64)
        self._kernels.module.shuffle(self.random_state.random(n), order)
        return order

    def _mean_loss(self, data: dict[str, NDArray[Any]]) -> float:
        """Return the mean loss, block by block, from the network's predictions."""
        network, backend = self.network, self._kernels
        n, n_outputs = n_samples(data), network.layer_sizes[-1]
        X = data["X"]
        if is_sparse(data):
            import scipy.sparse

            X = scipy.sparse.csr_matrix((data["X_data"], data["X_indices"], data["X_indptr"]), (n, X.shape[1]))
        total = weight_sum = 0.0
        together = backend.module.PREDICTED_ROWS
        for start in range(0, n, together):
            rows = np.arange(start, min(start + together, n))
            a = network.forward(X[start : start + together], check=False)
            y = np.empty((len(rows), n_outputs), network.dtype)
            if data["classes"].size:
                backend.gather_classes(on_host(data["classes"]), rows, y)
            else:
                y[...] = data["y"][rows]
            weight = data["sample_weight"][rows, 0] if data["sample_weight"].size else np.empty(0, network.dtype)
            total += backend.output_delta(a, y, weight, "identity", self._loss_function, np.empty_like(a))
            weight_sum += float(weight.sum()) if weight.size else len(rows)
        return total / weight_sum

    def __getstate__(self) -> dict[str, Any]:
        """Return what pickle and copy keep: no workspace, and the moments without their unused surroundings."""
        self._sync_last()
        arrays = {name: getattr(self, name).copy() for name in ("_m", "_v", "average")}
        own: dict[str, Any] = {
            "_workspaces": [{}],
            "_stream": None,
            "_last": None,
            "_pace": None,
            "_records": StepRecords(),
            "_moments_are_known": False,
        }
        return {**self.__dict__, **arrays, **own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        try:
            kernels.backend(self.backend, custom=self._is_custom)
        except ImportError:  # saved where another backend was available
            self.__dict__["backend"] = kernels.backend("auto", custom=self._is_custom).name
            self.__dict__.update(device=None, precision=None)

    def __copy__(self) -> Trainer:
        """Return a trainer of a network of its own: two of one network would not know of each other's steps."""
        return copy.deepcopy(self)


def _cut_points(callbacks: Sequence[Callback], first: int) -> Any:
    """Return a function of the steps done in this epoch: how many remain until a callback wants a step."""
    intervals = [callback.every_n_steps for callback in callbacks if callback.every_n_steps]
    if not intervals:
        return None
    return lambda done: min(interval - (first + done) % interval for interval in intervals)


def _as_callbacks(callbacks: Iterable[Callback], progress: bool) -> list[Callback]:
    if isinstance(callbacks, Callback):
        raise TypeError("callbacks is a callback; pass a list of them")
    callbacks = list(callbacks)
    for callback in callbacks:
        if not isinstance(callback, Callback):
            raise TypeError(f"a callback is a {type(callback).__name__}; pass objects of fastbp.Callback")
        if callback.every_n_steps is not None:
            check_whole("every_n_steps", callback.every_n_steps, 1, "step, or None")
    if progress:
        from .progress import ProgressBar

        callbacks.append(ProgressBar())
    return callbacks


def _check_fit(epochs: int, alpha: float, reduction: str) -> None:
    check_whole("epochs", epochs, 1)
    check_range("alpha", alpha, 0, np.inf, open_high=True)
    check_choice("reduction", reduction, ("mean", "sum"))


def _as_batch_size(batch_size: Any) -> int | str:
    if batch_size is None or (isinstance(batch_size, str) and batch_size == "full"):
        return "full"
    check_whole("batch_size", batch_size, 1, "sample, or 'full' for all at once")
    return int(batch_size)


def _as_pair(validation_data: Any) -> tuple[Any, Any]:
    if not isinstance(validation_data, tuple) or len(validation_data) != 2:
        raise ValueError("validation_data must be a tuple (X, y)")
    return validation_data


def _as_generator(random_state: Any) -> np.random.Generator:
    if isinstance(random_state, np.random.Generator):
        return random_state
    whole = isinstance(random_state, int | np.integer) and not isinstance(random_state, bool)
    if random_state is None or (whole and random_state >= 0):
        return np.random.default_rng(random_state)
    raise ValueError(f"random_state is {random_state!r}; pass None, a whole number of at least 0, or a Generator")
