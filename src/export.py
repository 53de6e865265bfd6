"""`python src/export.py ...` is `attnround export ...`; `--help` says what it takes."""

from attnround.cli.export import main  # with its @hydra.main, which shell completion looks for here

if __name__ == "__main__":
    main()
