"""`python src/train.py ...` is `attnround train ...`; `--help` says what it takes."""

from attnround.cli.train import main  # with its @hydra.main, which shell completion looks for here

if __name__ == "__main__":
    main()
