"""`python -m oyer.cli` is `oyer`."""

from oyer.cli import main

main()
