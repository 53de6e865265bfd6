"""The task that trains the float models."""

import time

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import Logger
from safetensors.torch import save as serialised

from attnround.data import ImageData
from attnround.errors import InputError
from attnround.evaluation import evaluate
from attnround.experiment.loggers import closing, publish, say
from attnround.experiment.record import Run
from attnround.files import write_atomically
from attnround.machine import peak_mib
from attnround.trainer import TrainerSettings, TrainingBar
from attnround.training import Recipe, SupervisedModule
from attnround.zoo import TimmModel


def pretrain(
    *,
    model: TimmModel,
    data: ImageData,
    training: Recipe,
    trainer: TrainerSettings,
    seed: int,
    run: Run,
    logger: dict[str, Logger] | None = None,
) -> dict[str, float]:
    """Train a float model with labels; write its weights as model.safetensors."""
    if trainer.devices != 1:
        raise InputError(f"trainer.devices={trainer.devices}: pre-training takes one device, give 1")
    if run.resume:
        raise InputError(f"resume={run.output_dir}: pre-training keeps nothing to go on from, leave it out")
    begun = time.perf_counter()
    pl.seed_everything(seed, verbose=False)
    loggers = list((logger or {}).values())
    net = model.build().to(memory_format=torch.channels_last).train()  # up to twice as fast on a CPU
    say("model", f"{model.name}, {sum(p.numel() for p in net.parameters()) / 1e6:.2f} M parameters")
    data.match(net.preprocessing, net.num_classes)
    run.clear()
    with closing(loggers, run, ("model", "data", "experiment")):
        fit = trainer.make(max_epochs=training.num_epochs, logger=loggers, callbacks=[TrainingBar()])
        fit.fit(SupervisedModule(net, training), datamodule=data)
        outputs = evaluate(net.eval(), data, trainer, "fp32")
        metrics = {
            "fp32/top1": outputs.top1,
            "time/total_s": time.perf_counter() - begun,
            "memory/peak_mib": peak_mib(),
        }
        weights = {key: value.contiguous() for key, value in net.state_dict().items()}
        write_atomically(run.output_dir / "model.safetensors", serialised(weights))
        run.write_record(run.record(metrics, device=trainer.device_name, num_threads=torch.get_num_threads()))
        publish(loggers, metrics, files=[run.output_dir / name for name in ("model.safetensors", "record.json")])
    say("evaluate", f"{len(outputs.labels)} images: fp32 {outputs.top1:.2f} %")
    say("record", f"{run.output_dir}: record.json, model.safetensors")
    return metrics
