"""`python src/evaluate.py ...` is `attnround evaluate ...`; `--help` says what it takes."""

from attnround.cli.evaluate import main  # with its @hydra.main, which shell completion looks for here

if __name__ == "__main__":
    main()
