"""Build the native modules. Everything else is in pyproject.toml.

SCANENGINE_DEBUG=1 builds with every run-time check of Cython and without optimisation; a test reads the flags back
from the built module.
"""

import os
from pathlib import Path

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup

DEBUG = os.environ.get("SCANENGINE_DEBUG") == "1"

directives = {
    "language_level": "3",
    "binding": True,
    "embedsignature": False,
    "wraparound": False,
    "boundscheck": True,  # Functions that turn it off say which line makes that safe.
    "cdivision": not DEBUG,
    "initializedcheck": DEBUG,
    "nonecheck": DEBUG,
    "overflowcheck": False,  # Codes and tags are arithmetic modulo 2**64.
}
flags = ["-O0", "-g"] if DEBUG else ["-O3", "-g0", "-fno-semantic-interposition"]


def native(path: Path) -> Extension:
    """Describe one native module by its source file."""
    return Extension(
        ".".join(path.relative_to("src").with_suffix("").parts),
        [str(path)],
        include_dirs=[numpy.get_include()],
        define_macros=[
            ("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION"),
            ("SCANENGINE_DEBUG_BUILD", "1" if DEBUG else "0"),
        ],
        extra_compile_args=flags,
    )


setup(
    ext_modules=cythonize(
        [native(path) for path in sorted(Path("src").rglob("*.pyx"))],
        compiler_directives=directives,
        force=DEBUG,
    ),
    options={"build_ext": {"parallel": os.cpu_count()}},
)
