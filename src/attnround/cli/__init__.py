"""The entries: a config composed by Hydra, run, and one clear line on failure. The only room that knows Hydra."""
