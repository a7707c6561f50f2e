"""Measuring a broker: the load generator and the statistics of `totalog bench` and of the project's own benches."""
