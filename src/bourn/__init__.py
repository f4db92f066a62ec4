"""bourn certifies what a neural network does on a whole region of inputs, by convex relaxation."""
from bourn._version import __version__
__all__ = ["__version__"]
