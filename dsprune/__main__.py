"""`python -m dsprune`, and `deepspeed --module dsprune`."""

from dsprune.commands.cli import main

if __name__ == "__main__":
    main()
