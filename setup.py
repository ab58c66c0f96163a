"""For tools that still look for it; everything stands in setup.cfg."""

from setuptools import setup

setup()
