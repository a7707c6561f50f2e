"""Mutants of the seam that change nothing that matters, each with the reason; reviewed by hand."""

EQUIVALENTS: dict[str, str] = {}
