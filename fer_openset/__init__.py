"""Open-set facial expression recognition: a reference workbook around Zhang et al. (AAAI 2024).

Up means open, everywhere: a larger score says "this expression was not among the trained ones".
"""

__version__ = "0.1.0"
