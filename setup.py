"""Adds to setup.cfg what it cannot say: the wheel holds ``configs/`` as ``lantern/configs``."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["lantern*", "experiments*"]), "lantern.configs"],
    package_dir={"lantern.configs": "configs"},
)
