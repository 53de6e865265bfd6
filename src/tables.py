"""`python src/tables.py ...` is `attnround tables ...`; `--help` says what it takes."""

from attnround.cli.tables import main

if __name__ == "__main__":
    main()
