"""Python objects as JSON and tensors, and back, without pickle.

Only what stands in a closed table is written or made: None, booleans, numbers, strings, tuples, dicts, lists,
arrays, random generators, and the instances of a few classes that the caller names. Nothing in a file is executed,
imported or looked up by name. Lists, arrays, generators and instances are kept in one table and referred to by their
number, so that what was one object is one object again: scikit-learn's training loop relies on that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

_BIT_GENERATORS: dict[str, type[np.random.BitGenerator]] = {
    "MT19937": np.random.MT19937,
    "PCG64": np.random.PCG64,
    "PCG64DXSM": np.random.PCG64DXSM,
    "Philox": np.random.Philox,
    "SFC64": np.random.SFC64,
}
_POSITIONS = {"MT19937": ("pos", 624), "Philox": ("buffer_pos", 4)}
"""Where a generator's state points into a buffer: NumPy does not check it."""

_INTEGERS = tuple(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64))
_SCALARS = {name: np.dtype(name).type for name in ("bool", *_INTEGERS, "float16", "float32", "float64")}

_LARGEST_TEXT = 1 << 28
"""Characters that an array of strings of one width may take: strings are few, and a width is only a claim."""


class Encoder:
    """Turns objects into what JSON can hold; what is large goes into tensors.

    Parameters
    ----------
    classes : mapping of str to type
        Classes whose instances may be written, with the names under which they are.

    Attributes
    ----------
    objects : list
        The table of what is referred to by number.
    tensors : dict of str to ndarray
    """

    def __init__(self, classes: Mapping[str, type] | None = None) -> None:
        self._names = {cls: name for name, cls in (classes or {}).items()}
        self.objects: list[Any] = []
        self.tensors: dict[str, NDArray[Any]] = {}
        self._numbers: dict[int, int] = {}
        self._encoded: list[Any] = []  # keeps what was encoded alive, and with it the ids in _numbers

    def value(self, value: Any, where: str) -> Any:
        """Return the JSON that stands for a value.

        Parameters
        ----------
        value : object
        where : str
            What the value is, for tensors' names and for errors.

        Raises
        ------
        TypeError
            If a model file cannot hold it.
        """
        if value is None or type(value) in (bool, int, str):
            return value
        if type(value) is float:
            return value if math.isfinite(value) else {"float": repr(value)}
        if isinstance(value, np.str_):
            return {"scalar": "str", "value": str(value)}
        if isinstance(value, np.generic) and value.dtype.name in _SCALARS:
            return {"scalar": value.dtype.name, "value": self.value(value.item(), where)}
        if type(value) is tuple:
            return {"tuple": [self.value(item, f"{where}.{i}") for i, item in enumerate(value)]}
        if type(value) is dict:
            return {"dict": {name: self.value(item, f"{where}.{name}") for name, item in value.items()}}
        if id(value) not in self._numbers:
            coded = self._object(value, where)
            self._numbers[id(value)] = len(self.objects)
            self.objects.append(coded)
            self._encoded.append(value)
        return {"object": self._numbers[id(value)]}

    def _object(self, value: Any, where: str) -> dict[str, Any]:
        if type(value) is list:
            return {"list": [self.value(item, f"{where}.{i}") for i, item in enumerate(value)]}
        if isinstance(value, np.ndarray):
            return self._array(value, where)
        if isinstance(value, np.random.Generator):
            return {"generator": self.value(value.bit_generator.state, where)}
        if isinstance(value, np.random.RandomState):
            return {"random_state": self.value(value.get_state(legacy=False), where)}
        if type(value) in self._names:
            fields = {name: self.value(item, f"{where}.{name}") for name, item in vars(value).items()}
            return {"instance": self._names[type(value)], "fields": fields}
        raise TypeError(
            f"{where} is a {type(value).__module__}.{type(value).__qualname__}, which a model file cannot hold; "
            "remove or replace it before saving, or use pickle"
        )

    def _array(self, array: NDArray[Any], where: str) -> dict[str, Any]:
        kind = array.dtype.kind
        if kind in "biuf" and array.dtype.newbyteorder("=").name in _SCALARS:
            self.tensors[where] = np.asarray(array)
            return {"tensor": where}
        if kind in "UO":
            items = [self.value(item, f"{where}.{i}") for i, item in enumerate(array.ravel().tolist())]
            dtype = "object" if kind == "O" else f"U{array.dtype.itemsize // 4}"
            return {"array": items, "shape": list(array.shape), "dtype": dtype}
        raise TypeError(
            f"{where} is an array of {array.dtype}, which a model file cannot hold; convert it before saving"
        )


class Decoder:
    """Makes objects from what `Encoder` wrote.

    Parameters
    ----------
    objects : list
        `Encoder.objects`.
    tensors : dict of str to ndarray
    classes : mapping of str to type
        As for `Encoder`; instances are made without a call of ``__init__``.

    Raises
    ------
    KeyError, TypeError, ValueError, IndexError, AttributeError
        If the description is malformed; all methods may raise them.
    """

    def __init__(
        self,
        objects: list[Any],
        tensors: Mapping[str, NDArray[Any]],
        classes: Mapping[str, type] | None = None,
    ) -> None:
        self._tensors, self._classes = tensors, classes or {}
        self._objects: list[Any] = []
        for coded in objects:  # each refers to earlier ones only
            self._objects.append(self._object(coded))

    def value(self, coded: Any) -> Any:
        """Return the value that some JSON stands for."""
        if coded is None or type(coded) in (bool, int, float, str):
            return coded
        if "float" in coded:
            return {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}[coded["float"]]
        if "scalar" in coded:
            make = np.str_ if coded["scalar"] == "str" else _SCALARS[coded["scalar"]]
            return make(self.value(coded["value"]))
        if "tuple" in coded:
            return tuple(self.value(item) for item in coded["tuple"])
        if "dict" in coded:
            return {name: self.value(item) for name, item in coded["dict"].items()}
        number = coded["object"]
        if type(number) is not int or not 0 <= number < len(self._objects):
            raise ValueError(f"it refers to object {number!r} of {len(self._objects)}")
        return self._objects[number]

    def _object(self, coded: dict[str, Any]) -> Any:
        if "list" in coded:
            return [self.value(item) for item in coded["list"]]
        if "tensor" in coded:
            return self._tensors[coded["tensor"]]
        if "array" in coded:
            return self._array(coded)
        if "generator" in coded:
            return np.random.Generator(_bit_generator(self.value(coded["generator"])))
        if "random_state" in coded:
            return _random_state(self.value(coded["random_state"]))
        return self._instance(coded)

    def _instance(self, coded: dict[str, Any]) -> Any:
        cls = self._classes[coded["instance"]]
        made: Any = object.__new__(cls)
        for name, item in coded["fields"].items():
            if hasattr(cls, name):
                raise ValueError(f"it would replace {cls.__name__}.{name}")
            setattr(made, name, self.value(item))
        return made

    def _array(self, coded: dict[str, Any]) -> NDArray[Any]:
        dtype, items = coded["dtype"], [self.value(item) for item in coded["array"]]
        if dtype != "object" and not (dtype[0] == "U" and int(dtype[1:]) * len(items) <= _LARGEST_TEXT):
            raise ValueError(f"it holds an array of {len(items)} elements of {dtype!r}")
        if math.prod(coded["shape"]) != len(items):
            raise ValueError(f"an array of shape {coded['shape']} has {len(items)} elements")
        array = np.empty(len(items), object)
        array[:] = items
        return array.reshape(coded["shape"]).astype(dtype)


def _bit_generator(state: dict[str, Any]) -> np.random.BitGenerator:
    """Return a bit generator in a state; one that points beyond its buffer is refused."""
    name = state["bit_generator"]
    made = _BIT_GENERATORS[name](0)
    if name in _POSITIONS:
        field, end = _POSITIONS[name]
        position = (state if field in state else state["state"])[field]
        if type(position) is not int or not 0 <= position <= end:
            raise ValueError(f"the random state's {field} is {position!r}")
    made.state = state
    return made


def _random_state(state: dict[str, Any]) -> np.random.RandomState:
    made = np.random.RandomState(_bit_generator(state))
    made.set_state(state)
    return made
