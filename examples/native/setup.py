"""Build the example: ``python setup.py build_ext --inplace``; the .pxd files are found where scanengine is."""

from Cython.Build import cythonize
from setuptools import Extension, setup

extension = Extension("genuine", ["genuine.pyx"])
setup(name="genuine", ext_modules=cythonize([extension]))
