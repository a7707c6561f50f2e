"""Benches: what each stage costs, printed by `make bench`. Not tests."""
