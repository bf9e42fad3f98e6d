"""`python -m oyer` is `oyer`."""

from oyer.cli import main

main()
