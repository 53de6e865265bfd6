"""What the process that runs of tests are forked from imports last: the project, and what it would find at every start.

The entries, which read the environment as they are imported, are left to the run.
"""

import gc
import multiprocessing.forkserver

import hydra.core.plugins
import PIL.Image

import attnround.api
import attnround.data.base
import attnround.experiment.checks
import attnround.experiment.quantizing
import attnround.study.runner  # noqa: F401
from tests import remembered

remembered.install()
PIL.Image.init()
hydra.core.plugins.Plugins.instance()
gc.collect()
gc.freeze()  # no later collection looks through what is here already


def _running_already() -> None:
    """Start nothing: what a process that was forked from this one forks in turn comes from this one too.

    multiprocessing would start another server there, which imports the libraries again (Python 3.11).
    """


multiprocessing.forkserver._forkserver.ensure_running = _running_already
