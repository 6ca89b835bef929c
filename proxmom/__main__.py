"""`python -m proxmom` is the command `proxmom`."""

from proxmom.cli import main

main()
