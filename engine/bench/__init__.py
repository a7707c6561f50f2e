"""Benches of the engine alone: what each stage costs. Not tests."""
