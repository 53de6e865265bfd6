"""`python src/verify.py ...` is `attnround verify ...`; `--help` says what it takes."""

from attnround.cli.verify import main  # with its @hydra.main, which shell completion looks for here

if __name__ == "__main__":
    main()
