"""Builds the compiled twins where that is possible. All else stands in pyproject.toml."""

import platform

from setuptools import Extension, setup

# Optional: where it cannot be compiled, the package is installed without it. PyPy is quicker with
# the Python twins.
twins = Extension("protomux._speedups", ["protomux/_speedups.pyx"], optional=True)

setup(
    ext_modules=[twins] if platform.python_implementation() == "CPython" else [],
    options={"build_ext": {"cython_c_in_temp": True}},
)
