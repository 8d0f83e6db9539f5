"""What mmengine.hub asks of a package.

A module, not a folder: engine.packages finds the package by this file's place.
"""


def register_all_modules() -> None:
    """Do nothing: importing the package has registered its modules."""
