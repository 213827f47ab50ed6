"""Open-set facial expression recognition: a reference workbook around Zhang et al. (AAAI 2024).

Up means open, everywhere: a larger score says "this expression was not among the trained ones".
"""

__version__ = "0.1.0"
__all__ = ["OpenSetDetector"]


def __getattr__(name):
    if name == "OpenSetDetector":  # on demand: `import fer_openset` loads no torch
        from fer_openset.detector import OpenSetDetector

        return OpenSetDetector
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return [*globals(), *__all__]
