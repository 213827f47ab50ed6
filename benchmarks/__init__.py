"""How fast the workbook trains and scores, beside a plain loop that does the same work: python -m benchmarks."""
