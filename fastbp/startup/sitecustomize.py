# mypy: ignore-errors
"""Start-up hook for the child processes of a program in which fastbp has replaced scikit-learn's classes.

`fastbp.patch_sklearn` puts this folder on PYTHONPATH, so that every Python started below imports this file
first, as `site` imports any module of this name. It adds one entry to `sys.meta_path`; fastbp is imported if
and when the child imports `sklearn.neural_network`. A child without fastbp goes on with plain scikit-learn.

Any Python may be started below, also one too old for fastbp: hence no annotations and no f-strings.
"""

import os
import sys


class _PatchOnFirstImport:
    """Meta-path finder that calls `fastbp.patch_sklearn` just before scikit-learn's networks are imported."""

    def find_spec(self, fullname, path=None, target=None):
        # A child that unpickles fastbp's estimators imports fastbp.estimators, and from there scikit-learn.
        if fullname not in ("sklearn.neural_network", "fastbp.estimators"):
            return None
        if self in sys.meta_path:
            sys.meta_path.remove(self)
            _patch()
        # The list has changed under importlib, which is looping over it: that loop has to end here.
        for finder in list(sys.meta_path):
            spec = finder.find_spec(fullname, path, target)
            if spec is not None:
                return spec
        return None


def _patch():
    if os.environ.get("FASTBP_PATCH_SKLEARN") != "1":  # taken back since this process started
        return
    try:
        from fastbp.accelerate import patch_sklearn

        patch_sklearn()
    except Exception as error:  # a fastbp that does not work here must not break a program that works without
        if os.environ.get("FASTBP_VERBOSE", "0") not in ("", "0"):
            sys.stderr.write("fastbp: this process runs plain scikit-learn: " + repr(error) + "\n")


def _give_way():
    """Import the module that Python would have imported in this one's place, if there is one."""
    sys.path[:] = [entry for entry in sys.path if entry != os.path.dirname(__file__)]
    this = sys.modules.pop(__name__)
    try:
        import sitecustomize  # noqa: F401
    except ImportError as error:
        if error.name != __name__:
            raise
        sys.modules[__name__] = this


if sys.version_info >= (3, 4):  # noqa: UP036 (older ones know no find_spec)
    if os.environ.get("FASTBP_PATCH_SKLEARN") == "1":
        sys.meta_path.insert(0, _PatchOnFirstImport())
    _give_way()
