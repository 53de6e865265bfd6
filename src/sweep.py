"""`python src/sweep.py ...` is `attnround sweep ...`; `--help` says what it takes."""

from attnround.cli.sweep import main

if __name__ == "__main__":
    main()
