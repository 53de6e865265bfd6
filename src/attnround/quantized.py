"""What `quantize` gives: the model, a report of its layers, and what can be done with them."""

import copy
import tempfile
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from attnround.bits import Allocation
from attnround.data.images import NUM_IMAGES, Labelled, check_labels, check_shape, gather_images
from attnround.deploy import prove, read, save
from attnround.deploy.comparison import compare
from attnround.deploy.file import Content
from attnround.deploy.openvino import AS_WRITTEN, OPSET, need_openvino, open_ir, sealed_ir
from attnround.deploy.preprocessing import as_pixels, plain_config, steps_of
from attnround.deploy.program import exported_program, open_program, sealed_program
from attnround.deploy.proof import Proof
from attnround.deploy.qdq import FORMS_OF, check_form
from attnround.deploy.runtime import onnx_file, opened, with_steps
from attnround.deploy.seal import about_export
from attnround.deploy.session import need_onnx
from attnround.deploy.ties import Ties
from attnround.errors import InputError, checked_seed, listed
from attnround.evaluation import fidelity, is_right, kl_nats, logit_sqnr_db, outputs
from attnround.files import write_atomically
from attnround.graph import Captured, beside, class_logits, find_layers, joined, left_float, unwrapped
from attnround.machine import as_usual
from attnround.prepared import Prepared, device_named
from attnround.progress import silent
from attnround.qat import Lsq, estimate_norms, insert_norms, is_trained_from, settle_layers, train_layers
from attnround.quantization.grid import quantize
from attnround.quantization.layers import quantized_layers
from attnround.reconstruction import UnitReport, report_layer
from attnround.table import plain, text_table

# What qat=lsq of the command line is, but for its epochs and its rate.
RECIPE: dict[str, Any] = {"batch_norm": "reestimated", "weight_decay": 1e-4, "label_smoothing": 0.1}


class Report(list):
    """A row a layer: dictionaries of its bits, its SQNR in dB before and after, what moved. Prints as a table.

    left_float: what stays float, as `kind at module` or a parameter's name -> its number of parameters; float_percent:
    those and the biases, of all parameters; outputs_db: SQNR in dB of each tensor that the model gives, on the
    calibration images; sqnr_db: of all of them; kl: divergence of the class probabilities in nats, None where the model
    does not give one tensor of logits [N, classes]; remarks: what the captured model lacks.
    """

    SHOWN = ("name", "kind", "shape", "bits", "weight_sqnr_db", "start_sqnr_db", "output_sqnr_db", "kept")

    def __init__(self, rows: Iterable[dict[str, object]], prepared: Prepared, model: Captured):
        super().__init__(rows)
        teacher, names = prepared.teacher, [row["name"] for row in self]
        self.left_float, self.remarks = left_float(beside(teacher, model), names), teacher.remarks
        num_weights = sum(prepared.unfolded[name].numel() for name in names)
        self.num_parameters = sum(parameter.numel() for parameter in teacher.parameters())
        self.float_percent = 100 * (1 - num_weights / self.num_parameters)
        expected, found = prepared.outputs, outputs(model, prepared.images)
        self.outputs_db = {key: logit_sqnr_db(expected[key], found[key]) for key in expected}
        self.sqnr_db = logit_sqnr_db(*(joined(each, len(prepared.images)) for each in (expected, found)))
        pairs = [(expected[key], found[key]) for key in expected]
        self.kl = kl_nats(*pairs[0]) if len(pairs) == 1 and pairs[0][0].ndim == 2 else None

    def __str__(self) -> str:
        lines = [text_table(self.SHOWN, [[_shown(row.get(key)) for key in self.SHOWN] for row in self])]
        kept = [f"{what} ({100 * count / self.num_parameters:.2f} %)" for what, count in self.left_float.items()]
        others = f", {listed(kept, 6)}" if kept else ""
        lines.append(f"stays float: {self.float_percent:.2f} % of the parameters: biases{others}")
        lines += self.remarks
        each = ", ".join(f"{key} {value:.2f}" for key, value in self.outputs_db.items())
        several = f" ({each})" if len(self.outputs_db) > 1 else ""
        kl = "" if self.kl is None else f", KL {self.kl:.3g} nats"
        lines.append(f"outputs on the calibration images: {self.sqnr_db:.2f} dB{several}{kl}")
        return "\n".join(lines)

    def dataframe(self) -> object:
        """The rows as a pandas DataFrame. Raises InputError where pandas is not installed."""
        try:
            import pandas as pd
        except ImportError as error:
            raise InputError("dataframe() needs pandas: pip install pandas, or take the rows as they are") from error
        return pd.DataFrame(list(self))


def _shown(value: object) -> object:
    return f"{value:.2f}" if isinstance(value, float) else plain(value)


def unit_rows(reports: Iterable[UnitReport], names: Iterable[str]) -> list[dict[str, object]]:
    """The rows of a reconstruction's layers, the last of each, in this order."""
    rows = {row["name"]: row for report in reports for row in report.rows()}
    return [rows[name] for name in names]


@dataclass
class Quantized:
    """A quantized model.

    model: the simulation, an nn.Module that gives what the float one gives; report: a row a layer; allocation: bits of
    the layers; method: how they were rounded; prepared: the float model and its calibration images.
    """

    model: Captured
    report: Report
    allocation: Allocation
    method: str
    prepared: Prepared

    @property
    def images(self) -> Tensor:
        """Those it was calibrated on, [N, C, H, W]."""
        return self.prepared.images

    def __call__(self, x: Tensor) -> object:
        return self.model(x)

    def save(self, path: str | Path) -> dict[str, object]:
        """Write the model as integers, a .safetensors file; return its name, bytes and sha256.

        Raises InputError where there is no such folder, and OSError where it cannot be written.
        """
        return save(self.model, _checked_file(path), self._about())

    @as_usual()
    def export(
        self,
        path: str | Path,
        *,
        weights: str = "runtime",
        opset: int | None = None,
        preprocessing: Mapping[str, Any] | None = None,
    ) -> float:
        """Write a file; return its agreement with the simulation on the calibration images in percent.

        path: its ending says which, .onnx, .pt2, or .xml for OpenVINO's IR, whose .bin is written beside it.

        weights: of 8 bits, `runtime` as onnxruntime and OpenVINO run them right on any processor, or `signed` as those
        with VNNI and ARM run them faster; of ONNX also `literal`, each a DequantizeLinear of its levels; opset: of
        ONNX, 13 or newer, None takes the oldest that has the types of the model's bits; preprocessing: of ONNX, what
        the images went through, as timm's data config says it: mean and std, and of image files crop_pct and
        interpolation. The file then does it, and takes pixels, uint8 [N, height, width, C].

        Raises InputError where the file does not compute what the simulation does, and nothing is written. Warns where
        onnxruntime or OpenVINO does not with its default options, which take integer kernels.
        """
        path = _checked_file(path)
        if path.suffix not in FORMS_OF:
            raise InputError(f"{path} is of no kind that is exported: give a name that ends in .onnx, .xml or .pt2")
        check_form(weights, path.suffix)
        for name, value in (("opset", opset), ("preprocessing", preprocessing)):
            if value is not None and path.suffix != ".onnx":
                raise InputError(f"{name}={value} is of a file that ends in .onnx: leave it out")
        shown, head = self.images, None
        if preprocessing is not None:
            config = plain_config(preprocessing) | {"input_size": list(shown.shape[1:])}
            head = config, steps_of(config, are_files="crop_pct" in config)
            shown = as_pixels(shown, config)
        content = self._content()
        about = about_export(content.about)
        exported: Sequence[nn.Module]
        if path.suffix == ".onnx":
            files, exported = self._as_onnx(path, content, about, weights, opset, head)
        elif path.suffix == ".pt2":
            raw, _ = sealed_program(exported_program(self.model), about)
            files, exported = {path: raw}, [open_program(raw, path)]
        else:
            need_onnx(str(path))
            need_openvino(str(path))
            _checked_file(path.with_suffix(".bin"))
            xml, packed = sealed_ir(onnx_file(self.model, content, about, OPSET, weights)[0], about)
            files = {path.with_suffix(".bin"): packed, path: xml}
            exported = [open_ir(xml, packed, path, AS_WRITTEN), open_ir(xml, packed, path)]
        found, *by_default = compare(self.model, exported, _unlabelled(shown))
        ties = Ties(self.model, lambda: _unlabelled(shown))
        fault = ties.fault(found, content.quantizes_values)
        if fault:
            raise InputError(f"{path} is not written: {fault}")
        for place, raw in files.items():
            write_atomically(place, raw)
        for each in by_default:
            fault = ties.fault(each, quantized_inputs=True, by_class=False)  # of floats OpenVINO may make bfloat16
            if fault:
                runtime = "onnxruntime" if path.suffix == ".onnx" else "openvino"
                better = "" if content.placement == runtime else f"; placement={runtime} quantizes what it runs"
                better = "; signed weights of 8 bits overflow without VNNI" if weights == "signed" else better
                warnings.warn(f"{path}: with {runtime}'s default options {fault}{better}", stacklevel=3)
        return found.agreement

    def _as_onnx(
        self,
        path: Path,
        content: Content,
        about: dict,
        weights: str,
        opset: int | None,
        head: tuple[dict[str, Any], list[dict]] | None,
    ) -> tuple[dict[Path, bytes], Sequence[nn.Module]]:
        """The file, and the model as `opened` gives it. head: what an image goes through first, and its steps."""
        need_onnx(str(path))
        raw, _ = onnx_file(self.model, content, about, opset, weights)
        runs = raw  # what takes images of the model's size
        if head is not None:
            config, steps = head
            about = about | {"model": about["model"] | {"preprocessing": config}}
            raw, runs = with_steps(raw, steps, about)
        return {path: raw}, opened(runs, path, weights)

    @as_usual()
    def verify(
        self,
        images: object | None = None,
        *,
        images_of: Callable[[object], Tensor] | None = None,
        batch_size: int = 50,
    ) -> Proof:
        """Compare the simulation with exact integer arithmetic, layer by layer, on images as `quantize` takes them."""
        shown = self.images if images is None else gather_images(images, NUM_IMAGES, images_of)
        check_shape(shown, self.images.shape[1:])
        content = self._content()
        return prove(self.model, content.layers, _unlabelled(shown), batch_size)

    @as_usual()
    @torch.no_grad()
    def evaluate(
        self,
        data: object,
        *,
        images_of: Callable[[object], Tensor] | None = None,
        labels_of: Callable[[object], Tensor] | None = None,
    ) -> dict[str, float]:
        """Compare the model with the float one on labelled images, a Dataset or a loader of (images, labels).

        Returns images (how many), top1 and float_top1 in percent, agreement of the two in percent, sqnr_db of the
        logits, kl of the class probabilities in nats, and confidence_change of the float model's top class, in points.
        images_of, labels_of: take them out of a batch of another form. Raises InputError where the model gives
        several tensors and `quantize` was not told by output= which are the logits.
        """
        pairs = []
        for images, labels in Labelled(data, images_of, labels_of):
            check_shape(images, self.images.shape[1:])
            float_logits, found = (class_logits(model, images) for model in (self.prepared.teacher, self.model))
            if found.ndim != 2:
                raise InputError(f"the logits are {list(found.shape)}: only [N, classes] are compared")
            check_labels(labels, found.shape[1])
            pairs.append((float_logits, found, labels))
        if not pairs:
            raise InputError("data gave no batch: give at least one labelled image")
        float_logits, found, labels = map(torch.cat, zip(*pairs, strict=True))
        return {
            "images": len(labels),
            "top1": 100 * is_right(found, labels).double().mean().item(),
            "float_top1": 100 * is_right(float_logits, labels).double().mean().item(),
            **fidelity(float_logits, found),
        }

    @as_usual()
    def finetune(
        self,
        data: object,
        *,
        epochs: int = 10,
        lr: float = 0.01,
        held_out: object = None,
        recipe: Lsq | None = None,
        images_of: Callable[[object], Tensor] | None = None,
        labels_of: Callable[[object], Tensor] | None = None,
        device: str = "cpu",
        seed: int = 0,
        progress: bool = True,
    ) -> "Quantized":
        """Train a copy with labels (LSQ, arXiv 1902.08153), on the same grids and bits; give the best epoch's model.

        data: a Dataset of (image, label), a seeded tenth of which decides what the best epoch is, or a loader of
        batches, with held_out a Dataset or loader of others for that; lr: the peak of the cycle, at 4 bits rather
        0.001; recipe: all other options, in place of the command line's (qat=lsq), and in place of epochs and lr; with
        its start="fp32" the training begins from the float weights, rounded to nearest on the scales that are here.
        """
        from attnround.data import LabelledPair  # Lightning only where something is trained
        from attnround.qat.run import finetune
        from attnround.trainer import TrainerSettings

        device_named(device)
        seed = checked_seed(seed)
        settings = recipe or Lsq(num_epochs=epochs, lr=lr, **RECIPE)
        logits = class_logits(self.model, self.images[:1])
        if logits.ndim != 2:
            raise InputError(f"the logits are {list(logits.shape)}: only [N, classes] are trained on")
        pair = LabelledPair(
            data, held_out, settings.held_out, settings.batch_size, seed, images_of, labels_of, logits.shape[1]
        )
        with tempfile.TemporaryDirectory() as folder, silent(not progress), TrainerSettings.quiet_within():
            torch.manual_seed(seed)
            tuned = finetune(
                self.prepared.teacher, self._untrained(settings.start), pair, self.images, self.prepared.norms,
                settings, TrainerSettings(device), Path(folder),
            )  # fmt: skip
        return self._with(tuned.student, f"{self.method}, lsq")

    def _untrained(self, start: str) -> Captured:
        """What training begins from: the integers as they are (ptq), or the nearest of the float weights (fp32)."""
        if start == "ptq":
            return self.model
        model = copy.deepcopy(self.model)
        for name, layer in quantized_layers(model).items():
            held = dict(self.prepared.teacher.get_submodule(name).named_parameters())
            levels = quantize(held["weight"].detach(), layer.scale, layer.zero_point, layer.grid)
            layer.bake(levels, held.get("bias", torch.zeros(len(levels))).detach())
        return model

    @as_usual()
    def trainable(self) -> Captured:
        """A copy for a training loop of your own: float weights behind the integers, learned steps, batch norms again.

        Its parameters take any optimizer; steps are kept positive. `frozen` makes integers of it again.
        """
        model = copy.deepcopy(self.model)
        train_layers(model, self.prepared.teacher)
        insert_norms(model, model, self.prepared.norms, self.images)
        return model.train()

    @as_usual()
    def frozen(self, trained: nn.Module) -> "Quantized":
        """The quantized model that a trained copy of `trainable` has become; that one stays as it is, wrapped or not.

        Batch norms take their statistics on the calibration images, and are folded in.
        """
        held = unwrapped(trained)
        if not (isinstance(held, Captured) and is_trained_from(held, self.model)):
            raise InputError(f"{type(held).__name__} was not made by this model's trainable(): give what that gave")
        model = copy.deepcopy(held).cpu()
        estimate_norms(model, self.images)
        settle_layers(model)
        return self._with(model, f"{self.method}, trained")

    def _with(self, model: Captured, method: str) -> "Quantized":
        """This with another model of the same bits."""
        rows, weights = [], find_layers(self.prepared.teacher)
        for name, layer in quantized_layers(model).items():
            weight = weights[name]
            nearest = quantize(weight, layer.scale, layer.zero_point, layer.grid)
            rows.append(vars(report_layer(name, layer, weight, nearest)))
        by_name = {row["name"]: row for row in rows}
        report = Report([by_name[row["name"]] for row in self.report], self.prepared, model.eval())
        return replace(self, model=model, report=report, method=method)

    def _content(self) -> Content:
        """The model as its file holds it."""
        with tempfile.TemporaryDirectory() as folder:
            self.save(Path(folder) / "it.safetensors")
            return read(Path(folder) / "it.safetensors")

    def _about(self) -> dict[str, object]:
        return {"model": self.prepared.architecture, "data": "the caller's", "method": self.method}


def _checked_file(path: str | Path) -> Path:
    """The path of a file that can be there. Raises InputError."""
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder: give the name of a file")
    if not path.parent.is_dir():
        raise InputError(f"{path}: there is no folder {path.parent}: make it first")
    return path


def _unlabelled(images: Tensor) -> Iterable[tuple[Tensor, None]]:
    """Batches of images without labels."""
    return ((batch, None) for batch in images.split(64))
