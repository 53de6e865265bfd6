"""The proof in words and as a table."""

from attnround.deploy.proof import TIE, CodesProof, LayerProof, Proof
from attnround.table import text_table

HEADER = [
    "layer", "bits", "sums in", "bound", "weights", "differ", "codes", "ties", "tie gap", "other", "network", "most",
]  # fmt: skip
LEGEND = """\
sums in, bound: what holds any partial sum, and its largest possible magnitude
weights, differ: how many, and how many are another level in the simulation than in the file
codes, ties, other: of its inputs, and how many differ when each layer is given the simulation's: at a tie, elsewhere
tie gap: how far apart the values on both sides of a tie are at most, in steps
network, most: codes that differ when the integer network runs on its own, and by how much at most"""


def layer_table(proof: Proof) -> str:
    """One row a layer and a value between layers, a dash where an input is float, and what the columns mean."""
    rows = [_row(layer) for layer in proof.layers]
    rows += [[edge.name, f"A{edge.activation_bits}", *[None] * 4, *_codes(edge)] for edge in proof.edges]
    return f"{text_table(HEADER, rows)}\n\n{LEGEND}"


def _codes(each: CodesProof) -> list[object]:
    gap = f"{each.tie_gap:.0e}" if each.ties else None
    return [each.codes, each.ties, gap, each.unexplained, each.codes_differing, each.largest]


def _row(layer: LayerProof) -> list[object]:
    weights = [layer.accumulator, layer.bound, layer.weights, layer.weights_differing]
    if layer.activation_bits is None:
        return [layer.name, f"W{layer.bits}", *weights, *[None] * 6]
    return [layer.name, f"W{layer.bits}A{layer.activation_bits}", *weights, *_codes(layer)]


def verdict(proof: Proof, faults: list[str]) -> str:
    """What all of it comes to: where a layer's input is float, so is its sum, and its weights alone are proven."""
    if faults:
        return f"not proven: {'; '.join(faults)}."
    floats = sum(layer.activation_bits is None for layer in proof.layers)
    between = f", and {len(proof.edges)} values between layers" if proof.edges else ""
    if floats == len(proof.layers):
        return "the weights are proven; the inputs of all layers are float."
    partly = f", of {floats} with float inputs the weights" if floats else ""
    return f"every quantized layer is proven{partly}{between}."


def findings(proof: Proof, recorded_top1: float | None) -> list[str]:
    """What was compared and what came out, a line each. recorded_top1: None where the record is of others."""
    integer = [layer for layer in proof.layers if layer.activation_bits is not None]
    lines = [
        f"weights: {sum(layer.weights_differing for layer in proof.layers)} of "
        f"{sum(layer.weights for layer in proof.layers)} codes differ between the file and the simulation"
    ]
    if not integer:
        lines.append(
            "inputs are float: their products with the integer weights were taken in float64 and scaled afterwards; "
            "only the codes of the weights are proven"
        )
    else:
        wide = [layer.name for layer in integer if layer.accumulator == "int64"]
        widths = f"int64 in {', '.join(wide)}, int32 in the others" if wide else "int32 in every layer"
        lines.append(f"sums: {widths}, by the bound of their magnitude; repeated in torch's integers on an image")
        codes, ties, other, differing = (
            sum(getattr(each, key) for each in proof.coded)
            for key in ("codes", "ties", "unexplained", "codes_differing")
        )
        gap = max(each.tie_gap for each in proof.coded)
        lines.append(
            f"codes, each layer given the simulation's: {ties} of {codes} differ at ties (two values up to {gap:.0e} "
            f"of a step apart, on either side of a half; {TIE:.0e} is allowed), {other} elsewhere"
        )
        lines.append(
            f"codes, the network on its own: {differing} of {codes} differ, by at most "
            f"{max(each.largest for each in proof.coded)}, as these ties have consequences"
        )
    network = proof.network
    lines.append(
        f"network: the same class on {network.agreeing} of {network.images} images ({network.agreement:.2f} %); "
        f"logits differ by up to {network.logit_difference:.1e}, the largest is {network.largest_logit:.1f}"
    )
    if network.top1 is not None:
        recorded = "" if recorded_top1 is None else f", recorded {recorded_top1:.2f} %"
        simulated = f"{network.simulation_top1:.2f} % in simulation"
        lines.append(f"top-1: {network.top1:.2f} % in integers, {simulated}{recorded}")
    return lines
