"""fastbp: compiled kernels that train multilayer perceptrons, and a thin Python API over them."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .logs import configure_logging

# In a checkout ./fastbp shadows an installed package but does not contain the kernels, which lie beside it.
_CHECKOUT = Path(__file__).parent.parent
if (_CHECKOUT / "pyproject.toml").exists() and (_CHECKOUT / "kernels" / "contract.py").exists():
    __path__.append(str(_CHECKOUT))

if TYPE_CHECKING:
    from . import activations, datasets, diagnostics, initializers, kernels, plots, schedules
    from .activations import ELU, GELU, SELU, CustomActivation, LeakyReLU, Maxout, ReLU, SiLU
    from .callbacks import Callback, Checkpoint, Converged, EarlyStopping, History, JSONLLogger, TrainingState
    from .categories import Labels, OneHot
    from .gpu import has_gpu, require_gpu
    from .kernels import backends
    from .layers import BatchNorm, Dropout
    from .losses import CustomLoss
    from .modelfile import ModelFileError
    from .network import Network
    from .optimizers import SGD, Adagrad, Adam, AdamW, Nadam, RMSprop
    from .preprocessing import Preprocessing
    from .standardizer import Standardizer
    from .trainer import Trainer

__version__ = "0.1.0"

configure_logging()

_HOMES = {
    "ELU": "activations",
    "GELU": "activations",
    "SELU": "activations",
    "Adagrad": "optimizers",
    "Adam": "optimizers",
    "AdamW": "optimizers",
    "BatchNorm": "layers",
    "Callback": "callbacks",
    "Checkpoint": "callbacks",
    "Converged": "callbacks",
    "CustomActivation": "activations",
    "CustomLoss": "losses",
    "Dropout": "layers",
    "EarlyStopping": "callbacks",
    "History": "callbacks",
    "JSONLLogger": "callbacks",
    "Labels": "categories",
    "LeakyReLU": "activations",
    "MLPClassifier": "estimators",
    "MLPRegressor": "estimators",
    "Maxout": "activations",
    "ModelFileError": "modelfile",
    "Nadam": "optimizers",
    "Network": "network",
    "OneHot": "categories",
    "Preprocessing": "preprocessing",
    "RMSprop": "optimizers",
    "ReLU": "activations",
    "SGD": "optimizers",
    "SiLU": "activations",
    "Standardizer": "standardizer",
    "Trainer": "trainer",
    "TrainingState": "callbacks",
    "backends": "kernels",
    "has_gpu": "gpu",
    "load": "io",
    "patch_sklearn": "accelerate",
    "require_gpu": "gpu",
    "save": "io",
    "unpatch_sklearn": "accelerate",
}
_MODULES = ("activations", "datasets", "diagnostics", "initializers", "kernels", "plots", "schedules")

__all__ = [
    "ELU",
    "GELU",
    "SELU",
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "BatchNorm",
    "Callback",
    "Checkpoint",
    "Converged",
    "CustomActivation",
    "CustomLoss",
    "Dropout",
    "EarlyStopping",
    "History",
    "JSONLLogger",
    "Labels",
    "LeakyReLU",
    "MLPClassifier",
    "MLPRegressor",
    "Maxout",
    "ModelFileError",
    "Nadam",
    "Network",
    "OneHot",
    "Preprocessing",
    "RMSprop",
    "ReLU",
    "SiLU",
    "Standardizer",
    "Trainer",
    "TrainingState",
    "__version__",
    "activations",
    "backends",
    "datasets",
    "diagnostics",
    "has_gpu",
    "initializers",
    "kernels",
    "load",
    "patch_sklearn",
    "plots",
    "require_gpu",
    "save",
    "schedules",
    "unpatch_sklearn",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: `import fastbp` itself stays cheap."""
    if name in _HOMES:
        value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    elif name in _MODULES:
        value = importlib.import_module(f".{name}", __name__)
    else:
        raise AttributeError(f"module 'fastbp' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
