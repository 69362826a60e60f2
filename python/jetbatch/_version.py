"""The version of the package, which must be that of the binary."""

__version__ = "0.1.0"
