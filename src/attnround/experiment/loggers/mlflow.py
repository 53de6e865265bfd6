"""MLflow: a run a job, in a store that all runs share, so that MLflow can compare them.

Like Lightning, it imports mlflow where that is used: seconds that runs with other loggers do not pay.
"""

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from pytorch_lightning.loggers import MLFlowLogger

from attnround.errors import InputError, reason
from attnround.experiment.loggers.base import Row, hyperparameters, need, status
from attnround.experiment.loggers.labels import Labels
from attnround.experiment.record import Run
from attnround.files import locked
from attnround.table import csv_text

RETRIES, STORE = "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_TRACKING_URI"


class MlflowRun(MLFlowLogger):
    """Lightning's logger, on a server or, without one, a database in a folder, which then holds the files too.

    save_dir: that folder; tracking_uri: the server, None for the folder; experiment_name: MLflow's word for a project;
    group, run_name: None takes those of `Labels`; tags: more than those; artifact: keep the files of the model.
    Raises InputError where mlflow is not installed, or the store cannot be opened.
    """

    def __init__(
        self,
        save_dir: str,
        experiment_name: str,
        tracking_uri: str | None = None,
        group: str | None = None,
        run_name: str | None = None,
        tags: dict[str, str] | None = None,
        artifact: bool = False,
    ):
        need("mlflow", "mlflow", *([] if tracking_uri else ["sqlalchemy", "alembic"]), extra="mlflow")
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # nothing leaves that was not asked for
        import mlflow

        for name in ("mlflow", "alembic"):  # how a database came about
            logging.getLogger(name).setLevel(logging.WARNING)
        self.group, self.artifact, location = group, artifact, None
        with contextlib.ExitStack() as opening:
            opening.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")  # mlflow's use of its own libraries
            if not tracking_uri:
                folder = Path(save_dir).absolute()
                folder.mkdir(parents=True, exist_ok=True)
                opening.enter_context(locked(folder / "mlflow.lock"))  # one that is being filled looks broken
                tracking_uri, location = f"sqlite:///{folder / 'mlflow.db'}", (folder / "artifacts").as_uri()
            try:
                super().__init__(experiment_name, run_name, tracking_uri, artifact_location=location)
            except mlflow.MlflowException as error:
                raise InputError(f"logger.mlflow.tracking_uri={tracking_uri}: {reason(error)}") from error
        self.tags = tags or {}

    def begin(self, run: Run, groups: Sequence[str]) -> None:
        """Start the MLflow run of this job. Raises InputError where the server cannot be reached or refuses it."""
        import mlflow

        labels, options = Labels.of(run, groups), hyperparameters(run)
        self._run_name = self._run_name or labels.name
        derived = {"group": self.group or labels.group, "task": labels.task, "widths": " ".join(labels.widths)}
        self.tags = labels.chosen | derived | self.tags
        try:
            with starting():
                self._experiment_id = self._found_or_made()
                _ = self.experiment
            self.log_hyperparams(options)  # flat, and cut where long
            self.experiment.log_dict(self.run_id, options, "options.json")  # as they are
        except mlflow.MlflowException as error:
            raise InputError(f"logger.mlflow.tracking_uri={self._tracking_uri}: {reason(error)}") from error

    def _found_or_made(self) -> str:
        """The id of the MLflow experiment; another job may make it at the same time."""
        import mlflow

        client, name = self._mlflow_client, self._experiment_name
        if (there := client.get_experiment_by_name(name)) is None:
            try:
                return client.create_experiment(name, self._artifact_location)
            except mlflow.MlflowException:
                there = client.get_experiment_by_name(name)
                if there is None:
                    raise
        return there.experiment_id

    def publish(
        self, metrics: dict[str, float], rows: Sequence[Row], pictures: Sequence[Path], files: Sequence[Path]
    ) -> None:
        """The metrics; as artifacts the table of the layers, the pictures and, where asked for, the files."""
        self.log_metrics(metrics)
        if rows:
            self.experiment.log_text(self.run_id, csv_text(rows), "layers.csv")
        for picture in pictures:
            self.experiment.log_artifact(self.run_id, str(picture), "pictures")
        for file in files if self.artifact else ():
            self.experiment.log_artifact(self.run_id, str(file), "model")

    def finalize(self, status: str = "success") -> None:
        """The end of a fit, which is not that of the run."""

    def end(self, failure: BaseException | None) -> None:
        """Close the MLflow run, if it came to one."""
        super().finalize(status(failure))


@contextlib.contextmanager
def starting() -> Iterator[None]:
    """Within, a server that does not answer is given up after seconds; mlflow itself would try for four minutes.

    Afterwards the environment is as it was: mlflow writes its store there, which the next job would take for a server.
    """
    before = {name: os.environ.get(name) for name in (RETRIES, STORE)}
    os.environ.setdefault(RETRIES, "2")
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})
