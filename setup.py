"""Packaging. The folders at the root install as the package `xlt_engine` (docs/design.md, "Packaging")."""

import re
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
EXTRAS = {
    "corpus": ["ahocorasick_rs>=1.0", "py3langid>=0.4"],
    "datasets": ["pyarrow>=18"],
    "docs": ["mkdocs>=1.6.1,<2", "mkdocstrings[python]>=1,<2", "ruff>=0.14"],
    "hub": ["huggingface_hub>=1.0"],
    "onnx": ["onnx>=1.19", "onnxruntime>=1.22", "onnxscript>=0.5"],
    "tensorboard": ["tensorboard>=2.21"],
    "zst": ["zstandard>=0.23; python_version < '3.14'"],
}
ROOMS = ["kernels", "data", "model", "engine"]
_ROOT_MODULES = ("__init__", "cli", "tasks", "untrusted")
VERSION = re.search(r'^__version__ = "(.+)"$', (ROOT / "__init__.py").read_text("utf-8"), re.M).group(1)


class BuildPy(build_py):
    """Of the root folder, ship the modules of the package only."""

    def find_package_modules(self, package, package_dir):
        modules = super().find_package_modules(package, package_dir)
        return [m for m in modules if package != "xlt_engine" or m[1] in _ROOT_MODULES]


setup(
    name="xlt-engine",
    version=VERSION,
    description="Zero-shot cross-lingual transfer without parallel corpora: a low-level training engine",
    long_description=(ROOT / "README.md").read_text("utf-8") if (ROOT / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    package_dir={"xlt_engine": "."},
    packages=["xlt_engine"]
    + ["xlt_engine." + p for p in find_packages(str(ROOT), include=[n for r in ROOMS for n in (r, r + ".*")])],
    package_data={
        "xlt_engine": ["py.typed"],
        "xlt_engine.data": ["recipes/*.toml", "synthetic/*.tsv", "corpus/*.tsv"],
        "xlt_engine.engine.export": ["modeling_xlt.txt"],
        "xlt_engine.engine.lab": ["*/*.toml"],
        "xlt_engine.engine": ["report/*.css", "preflight/*.toml"],
    },
    include_package_data=False,
    cmdclass={"build_py": BuildPy},
    entry_points={"console_scripts": ["xlt-engine=xlt_engine.cli:main"]},
    install_requires=[
        "torch>=2.11",
        "triton>=3.6; platform_system == 'Linux'",
        "tokenizers>=0.22",
        "safetensors>=0.5",
        "numpy>=2.0",
        "click>=8.3.3,<9",
        "tqdm>=4.66",
    ],
    extras_require={
        **EXTRAS,
        "test": [
            "pytest>=8",
            "pytest-xdist>=3.6",
            "transformers>=5",
            "accelerate>=1.15",
            "lightning>=2.6.6",
            "scipy>=1.15",
            "seqeval>=1.2.2",
            "mypy>=1.18",
            "playwright>=1.55",
            *(package for extra in EXTRAS.values() for package in extra),
        ],
        # what the benchmarks compare with; the kernel libraries are for CUDA
        "bench": [
            "transformers>=5",
            "liger-kernel>=0.8; platform_system == 'Linux'",
            "cut-cross-entropy>=25.1; platform_system == 'Linux'",
        ],
    },
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Typing :: Typed",
    ],
)
