"""`python -m totalog.gateway` is the command `totalog`."""

from totalog.gateway.cli import main

main()
