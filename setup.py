"""The packages of the wheel; everything else about it stands in pyproject.toml.

Folds, sample weights and the results of measured machines lie where the documents name them in a checkout, and inside the
installed package: unet3d/places.py finds either.
"""

import shutil

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

DATA = {
    "unet3d.data.folds": "folds",
    "unet3d.data.samples": "samples",
    "unet3d.data.reference_results": "benchmarks/results",
}


class BuildFresh(build_py):
    """Without what an earlier build left behind, or modules that are gone would stay in the wheel."""

    def run(self) -> None:
        shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()


setup(
    packages=[*find_packages(include=["unet3d", "unet3d.*"]), *DATA],
    package_dir=DATA,
    cmdclass={"build_py": BuildFresh},
)
