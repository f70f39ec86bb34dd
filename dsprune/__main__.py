"""`python -m dsprune`, and `deepspeed --module dsprune`."""

from dsprune.programs.cli import main

if __name__ == "__main__":
    main()
