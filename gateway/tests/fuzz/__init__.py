"""Bytes that nobody would send on purpose, in great numbers: `targets` says what takes them and what may come of it,
`mutate` makes them, `__main__` looks for more for as long as it is given time (`make fuzz MINUTES=10`). What was found
stands under `corpus`, and is tried again by every test run."""
