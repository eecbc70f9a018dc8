"""`python -m deploy.machines` is `deploy/lab`."""

from deploy.machines.cli import main

main()
