"""gradscope: how far back in time a sequence model can learn, why not further, and what to do about it."""

__version__ = "0.1.0"
