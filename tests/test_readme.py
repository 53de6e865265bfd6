"""The numbers that the README and the pages show are those of committed rows, and the README stays short."""

import csv
import re
import statistics

import pytest
from hydra import compose, initialize_config_dir
from scipy.stats import spearmanr

from attnround.study.tables.write import put_into
from tests.conftest import ROOT
from tests.pages import TEXTS

TEXT = TEXTS[ROOT / "README.md"]
HEADLINE = re.compile(r"<!-- table headline -->.*?<!-- end -->", re.S)


def rows(name: str) -> list[dict[str, str]]:
    with (ROOT / "results" / name).open() as file:
        return list(csv.DictReader(file))


def page(name: str) -> str:
    return TEXTS[ROOT / "docs" / name]


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def line_of(text: str, pattern: str) -> str:
    (line,) = [each for each in text.splitlines() if re.match(rf"\| {pattern} \|", each)]
    return line


def test_the_readme_is_two_screens():
    assert len(HEADLINE.sub("", TEXT).splitlines()) <= 110


def test_its_first_commands_are_the_two():
    assert re.findall(r"^    (make \w+)", TEXT, re.M) == ["make run", "make test"]


def test_the_tables_in_the_readme_are_the_committed_ones():
    assert len(HEADLINE.findall(TEXT)) == 1
    assert put_into(TEXT, ROOT / "results/tables") == TEXT


@pytest.mark.parametrize("text", [TEXT, page("quickstart.md")], ids=["README.md", "quickstart.md"])
def test_the_main_job_is_shown_as_its_row_has_it(text):
    (row,) = (row for row in rows("cost.csv") if row["model"] == "resnet18_slim")
    for name, method in (("nearest", "nearest"), ("quantized", "attention_round")):
        shown = re.search(rf"^    {method} +(.*)$", text, re.M)[1].split()
        found = [float(row[f"{name}/{key}"]) for key in ("top1", "agreement", "sqnr_db")]
        assert [float(each) for each in shown[:3]] == pytest.approx(found, abs=0.0051)
        assert [float(each) for each in shown[3:5]] == pytest.approx(
            [float(row["bits/mean"]), float(row["bits/size_mib"])], abs=0.0051
        )
    seconds = float(row["time/scales_s"]) + float(row["time/reconstruction_s"])
    assert float(shown[5]) == pytest.approx(seconds, abs=0.051)


def test_the_committed_ratios_of_a_step_are_shown():
    ratios = [float(row["ratio"]) for row in rows("block_step.csv")]
    assert f"{min(ratios):.2f} to {max(ratios):.2f} times a bare float step" in page("methods.md")


def test_a_step_costs_the_same_whatever_the_images_and_bits():
    assert all(0.95 < float(row["ratio"]) < 1.05 for row in rows("layer_step.csv"))


def test_the_layer_objective_is_what_methods_says():
    found = {}
    for row in rows("descent.csv"):
        found.setdefault((row["method"], row["steps"]), []).append((float(row["objective"]), float(row["seconds"])))
    own, ada, adam, greedy = (
        list(zip(*found[key], strict=True))
        for key in (
            ("Attention Round", "100"),
            ("AdaRound", "2000"),
            ("Attention Round by Adam", "400"),
            ("GPTQ, coordinate descent", "0"),
        )
    )
    text = page("methods.md").replace("\n", " ")
    percent = [round(100 * (1 - each)) for each in own[0]]
    assert f"end {min(percent)} to {max(percent)} % below AdaRound's 2,000 steps" in text
    slower = [old / new for new, old in zip(own[1], ada[1], strict=True)]
    assert (round(min(slower)), round(max(slower))) == (4, 9)
    assert "in a quarter to a ninth of their time" in text
    percent = [round(100 * (1 - new / old)) for new, old in zip(own[0], adam[0], strict=True)]
    assert f"They end {min(percent)} to {max(percent)} % below the 400 steps of Adam" in text
    percent = [round(100 * (other / new - 1)) for new, other in zip(own[0], greedy[0], strict=True)]
    assert f"coordinate descent ends {min(percent)} to {max(percent)} % higher" in text


SETTINGS = {
    "uniform": "uniform",
    "mixed, of the weights alone": "mixed eps=0.1 relative_to=rms",
    "mixed, by Fisher traces": "mixed eps=0.3 relative_to=fisher",
    "rate_distortion": "rate_distortion",
    "sensitivity": "sensitivity",
    "sensitivity, `measure=network`": "sensitivity measure=network",
    "fisher": "fisher",
}
MODELS = ("resnet18_slim", "mobilenetv2_050")
FROM_WEIGHT = "attention_round from weight"  # Attention Round in rows of before its sweeps also started elsewhere


@pytest.mark.parametrize("name", SETTINGS)
def test_the_committed_allocators_are_shown(name):
    text = page("bits.md")
    line = line_of(text[text.index("rank correlation |") :], rf"{re.escape(name)}( \(.*\))?")
    found = [row for row in rows("allocation.csv") if (row["budget"], row["seed"]) == ("2.5", "0")]
    expected = []
    for model in MODELS:
        (row,) = [each for each in found if (each["model"], each["allocator"]) == (model, SETTINGS[name])]
        expected += [f"{float(row['sqnr_db']):.1f}", f"{float(row['rank_correlation'] or 0):.2f}"]
    assert [cell if cell != "-" else "0.00" for cell in cells(line)[1:]] == expected


def test_the_default_convention_is_the_one_that_is_explained():
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        bits = compose("train", ["bits=mixed"]).bits
    assert bits.relative_to == "logits"
    assert "**In the network's metric**, the default" in page("how-it-works.md")


def test_the_committed_rank_correlations_of_predictions_are_shown():
    found = rows("prediction.csv")
    measured = [float(row["sqnr_db"]) for row in found]
    text = page("bits.md").replace("\n", " ")
    assert f"over {len(found)} random allocations" in text
    for measure, said in (
        ("network_metric", "with the measured SQNR is"), ("fisher", "squared weight errors"),
        ("sensitivity", "own output errors"),
    ):  # fmt: skip
        correlation = spearmanr(measured, [float(row[measure]) for row in found]).statistic
        assert f"{said} {correlation:.2f}" in text


def test_the_committed_speed_of_allocation_is_shown():
    seconds = [f"{float(row['seconds']):.2f} s" for row in rows("allocation_speed.csv")]
    assert all(each in page("bits.md").replace("\n", " ") for each in seconds)


def test_the_committed_costs_are_shown():
    for row in rows("cost.csv"):
        cost = f"| {float(row['time/total_s']):.0f} | {float(row['memory/peak_mib']) / 1024:.1f} GiB |"
        assert cost in page("methods.md")


def test_the_committed_sqnr_of_the_methods_is_shown():
    table, text = rows("tables/rounding.csv"), page("methods.md")
    text = text[text.index("| method | resnet18_slim W4") :]
    for method in ("nearest", "GPTQ", "coordinate descent", "AdaRound", "FlexRound", "Attention Round"):
        found = {(row["model"], row["weights"]): row for row in table if row["method"] == method}
        expected = [found[model, width]["sqnr_db_mean"] for model in MODELS for width in ("W4", "W3", "W2")]
        assert cells(line_of(text, method))[1:] == [f"{float(each):.2f}" for each in expected]


@pytest.mark.parametrize("model", MODELS)
def test_the_committed_accuracies_with_quantized_inputs_are_shown(model):
    table = rows("tables/activations.csv")
    found = {row["weights"]: row for row in table if (row["model"], row["method"]) == (model, "Attention Round")}
    shown = cells(line_of(page("activations.md"), f"{model}, top-1 %"))[2:]
    assert shown == [f"{float(found[width]['top1_mean']):.2f}" for width in ("W4A8", "W4A4", "W3A3", "W2A4")]


ENDS = {"bits": ["ends at 8"]}
FINE = {"weights": ["W4", "W3"], "method": ["GPTQ"]}
SAID = [  # page, what it says, and of which lines of which table the least and the largest difference in dB are meant
    ("results.md", "Attention Round's are 0.1 to 0.3 dB closer", "headline", {"method": ["AdaRound"]}),
    ("results.md", "is 0.4 to 0.5 dB behind at 4 and 3 bits", "rounding", FINE),
    ("results.md", "0.8 and 1.4 dB at 2", "rounding", {"weights": ["W2"], "method": ["GPTQ"]}),
    ("results.md", "first and last layer at 8, by 0.6 to 5.9 dB", "mixed", ENDS),
    ("results.md", "Fisher traces by 0.1 to 1.2 dB at 3 and 2", "allocators", {"allocator": ["fisher"]}),
    ("results.md", "FlexRound is 0.9 to 2.1 dB behind", "rounding", {"method": ["FlexRound"]}),
    ("bits.md", "It is 0.6 to 5.9 dB better than equal bits", "mixed", ENDS),
    ("bits.md", "and is 0.5 to 2.5 dB behind", "allocators", {"allocator": ["coding length, Fisher traces"]}),
    ("bits.md", "It is 0.1 to 1.2 dB behind the", "allocators", {"allocator": ["fisher"]}),
    ("methods.md", "are 0.6 to 0.8 dB behind layers", "granularity", {"objective": ["block"]}),
    ("methods.md", "they gain 0.0 to 0.4 dB", "granularity", {"objective": ["layer, then block"]}),
    ("methods.md", "half as wide a start makes 0.0 to 0.2 dB", "sigma", {"sigma": ["0.25"]}),
    ("methods.md", "twice as wide 0.0 to 0.4 dB", "sigma", {"sigma": ["1"]}),
    ("methods.md", "AdaRound is 0.0 to 0.3 dB behind", "calibration", {"method": ["AdaRound"]}),
    ("methods.md", "GPTQ is 0.6 to 1.5 dB behind", "calibration", {"method": ["GPTQ"]}),
    ("methods.md", "ahead of draws by 0.5 to 0.7 dB", "estimator", {"estimator": ["sampled"]}),
]


@pytest.mark.parametrize(("where", "sentence", "table", "labels"), SAID, ids=[each[1] for each in SAID])
def test_differences_in_words_are_those_of_the_tables(where, sentence, table, labels):
    assert sentence in page(where).replace("\n", " ")
    lines = [row for row in rows(f"tables/{table}.csv") if all(row[key] in some for key, some in labels.items())]
    found = [abs(float(row["difference_db_mean"])) for row in lines]
    assert re.findall(r"\d\.\d", sentence) == [f"{each:.1f}" for each in sorted({min(found), max(found)})]


def test_what_is_foretold_of_a_layer_is_as_near_as_the_page_says():
    errors: dict[tuple[str, str], list[float]] = {}
    for row in rows("prediction_by_layer.csv"):
        for places in ("together", "apart"):
            error = float(row[f"{places}_db"]) - float(row["measured_db"])
            errors.setdefault((row["network"], places), []).append(error)
    spread = {key: f"{statistics.stdev(each):.1f}" for key, each in errors.items()}
    text = page("how-it-works.md").replace("\n", " ")
    together, apart = (
        [spread[name, places] for name in ("lite0", "mobilenetv2_050")] for places in ("together", "apart")
    )
    assert f"error of {together[0]} dB on EfficientNet-Lite0 at 224 pixels and of {together[1]} dB" in text
    assert f"`bits.places=apart` has {apart[0]} and {apart[1]}" in text


PLACES = {"sqnr_db": 2, "agreement": 1, "kl": 3}


def spread(draws: list[dict[str, str]], key: str) -> str:
    """The mean of three draws and their deviation, as the page has it."""
    values, n = [float(row[key]) for row in draws], PLACES[key]
    assert len(values) == 3
    return f"{statistics.mean(values):.{n}f} ± {statistics.stdev(values):.{n}f}"


def draws_of_photographs() -> dict[str, dict[tuple[str, str], list[dict[str, str]]]]:
    """Bits -> (method, ridge) -> rows."""
    found: dict[str, dict[tuple[str, str], list[dict[str, str]]]] = {}
    for row in rows("targets_seeds.csv"):
        found.setdefault(row["bits"], {}).setdefault((row["method"], row["ridge"]), []).append(row)
    return found


def test_photographs_are_shown_as_their_rows_have_them():
    for bits, draws in draws_of_photographs().items():
        name = f"mixed, {bits} on average" if bits[0] != "W" else f"{bits[1:]}, first and last layer 8"
        wanted = [f"{float(draws['gptq', 'chosen'][0]['mib']):.2f}"]
        wanted += [spread(draws["nearest", "shared"], key) for key in ("sqnr_db", "agreement")]
        wanted += [spread(draws[method, "chosen"], key) for method in ("gptq", FROM_WEIGHT) for key in PLACES]
        assert cells(line_of(page("photographs.md"), name))[1:] == wanted


def order(row: dict[str, str]) -> tuple[int, int]:
    return ["gptq", FROM_WEIGHT].index(row["method"]), ["0.01", "shared", "chosen"].index(row["ridge"])


def test_ridges_are_shown_as_their_rows_have_them():
    found: dict[tuple[str, str, str], list[float]] = {}
    for row in sorted(rows("ridges.csv"), key=order):
        found.setdefault((row["network"], row["bits"], row["images"]), []).append(float(row["sqnr_db"]))
    for (network, bits, images), values in found.items():
        shown = line_of(page("how-it-works.md"), rf"{network} \| {bits} \| {int(images):,}")
        assert [float(each) for each in cells(shown)[3:]] == pytest.approx(values, abs=0.0051)


def files_of(file: str) -> dict[str, list[dict[str, str]]]:
    """Network -> the rows of its files."""
    found: dict[str, list[dict[str, str]]] = {}
    for row in rows(file):
        found.setdefault(row["network"], []).append(row)
    return found


def section(name: str, heading: str) -> str:
    """What a page says under a heading, up to the next of any level."""
    return re.split("^##", page(name).partition(f"\n{heading}\n")[2], maxsplit=1, flags=re.M)[0]


@pytest.mark.parametrize(
    ("file", "heading"), [("deployment_avx2.csv", "### Without VNNI"), ("deployment_avx2_openvino.csv", "## OpenVINO")]
)
def test_how_exports_follow_the_simulation_is_what_the_rows_say(file, heading):
    """Of W8A8 and W4A8 with the runtime's placement, and no overflow; W2A8's bytes over the budget too.

    Behind each what the simulation itself does without oneDNN.
    """
    text = section("deployment.md", heading)
    for name, files in files_of(file).items():
        right = [each for each in files if each["made_by"] == "attnround" and each["form"] == "runtime"]
        right = [each for each in right if each["inputs"] == "8" and each.get("placement") != "inputs"]
        found = {each["weights"]: each for each in right}
        keys = [("written_agrees", "default_agrees", "default_db"), ("floor_agrees", "floor_db")]
        wanted = [", ".join(filter(None, (found[bits][key] for key in some))) for bits in "84" for some in keys]
        wanted.append(", ".join(f"{float(found[bits]['over_budget']):.1f}" for bits in "842" if bits in found))
        assert cells(line_of(text, f"{name}, beside the simulation"))[1:] == wanted
        if files[0]["top1"]:
            top1 = [f"{float(each['top1']):.2f}" for each in files]
            assert cells(line_of(text, f"{name}, top-1"))[1:] == [*top1, files[0]["fp32_top1"]]


@pytest.mark.parametrize(
    ("file", "heading"),
    [
        ("deployment.csv", "## How fast it runs"),
        ("deployment_avx2.csv", "### Without VNNI"),
        ("deployment_avx2_openvino.csv", "## OpenVINO"),
    ],
)
def test_how_fast_exports_run_is_what_the_rows_say(file, heading):
    found = files_of(file)
    text = section("deployment.md", heading)
    columns = max(map(len, found.values()))  # a network without labels lacks the last form, NNCF as tuned
    for name, files in found.items():
        shown = cells(line_of(text, f"{name}, {files[0]['pixels']} px"))[1:]
        missing = [""] * (columns - len(files))
        assert shown == [f"{float(each['speed_up']):.2f}" for each in files] + missing
        if not files[0]["sqnr_db"] and "openvino" in file:
            continue  # its table of sizes has the trained networks alone
        quality = [f", {float(each['sqnr_db']):.1f}" if each["sqnr_db"] else "" for each in files]
        shown = cells(line_of(text, name))[1:]
        assert shown == [f"{float(each['mib']):.2f}{more}" for each, more in zip(files, quality, strict=True)]


def test_the_readme_shows_how_fast_exports_run_as_their_page_does():
    """Of the forms of the page: signed, 4 and 2 bits, float inputs, and onnxruntime's own with unsigned inputs."""
    text = page("deployment.md").partition("### Without VNNI")[0]
    for line in re.findall(r"^\| .* px \|.*", TEXT.partition("## How fast it runs")[2], re.M):
        name, *shown = cells(line)
        faster, sizes = (cells(line_of(text, each))[1:] for each in (name, name.split(",")[0]))
        assert shown == [f"{faster[i]}, {sizes[i].split(',')[0]}" for i in (2, 3, 4, 5, 7)]


def test_what_gains_in_integers_is_what_the_rows_say():
    kinds = ("1x1 convolution", "depthwise convolution", "convolution", "linear", "rest")
    found = {(row["network"], row["kind"]): row for row in rows("deployment_avx2_kernels.csv")}
    text = page("deployment.md").partition("### What gains in integers")[2].partition("\n## ")[0]
    for network in {name for name, _ in found}:
        each = [found.get((network, kind)) for kind in kinds]
        wanted = [f"{float(row['float_ms']) / float(row['integer_ms']):.2f}" if row else "" for row in each]
        assert cells(line_of(text, network))[1:] == wanted


def test_every_family_works_as_the_page_says():
    found = rows("families.csv")
    counts = {name: sum(row["collection"] == name for row in found) for name in ("timm", "torchvision", "transformers")}
    text = page("own.md").replace("\n", " ")
    assert f"timm's {counts['timm']} files, {counts['torchvision']} of torchvision" in text
    assert f"{counts['transformers']} image classifiers of transformers" in text
    assert f"all {len(found)} work" in text
    assert {row["outcome"] for row in found} == {"works"}


def gains_of(copies: str) -> dict[tuple[str, ...], float]:
    """(network, method, images, bits, seed) -> what learning from such copies of the images too gains, dB."""
    found = {}
    for row in rows(f"{copies}.csv"):
        place = tuple(row[key] for key in ("network", "method", "images", "bits", "seed"))
        found.setdefault(place, {})[row["copies"]] = float(row["sqnr_db"])
    return {place: values[copies] - values["none"] for place, values in found.items()}


def test_small_transformers_are_shown_as_their_rows_have_them():
    found = {
        (row["network"], row["bits"], row["attention"] == "True"): row
        for row in rows("small_transformers.csv")
        if (row["method"], row["equalization"]) == ("gptq", "none")
    }
    for name in ("ViT", "Swin", "ConvNeXt"):
        settings = [(bits, attention) for bits in ("W8A8", "W4A8", "W4A4") for attention in (False, True)]
        each = [found.get((name.lower(), *setting)) for setting in (*settings, ("W4A4P8", True))]
        wanted = [f"{float(row['top1']):.2f}, {float(row['sqnr_db']):.1f}" if row else "" for row in each]
        assert cells(line_of(page("activations.md"), name)) == [name, each[0]["fp32_top1"], *wanted]
    drops = [float(row["fp32_top1"]) - float(row["top1"]) for (_, bits, _), row in found.items() if bits[-2:] == "A8"]
    assert max(drops) <= 0.12


def test_mixed_images_gain_what_the_page_says():
    gains = {}
    for (_, method, images, *_), gain in gains_of("mixup").items():
        gains.setdefault((method, images == "1024"), []).append(gain)
    few, ours, many = gains["gptq", False], gains[FROM_WEIGHT, False], gains["gptq", True]
    least, most = ([f"{end(each):.1f}" for each in (few, ours)] for end in (min, max))
    average = [f"{statistics.mean(each):.2f}" for each in (few, ours, many)]
    said = (
        f"it gains {average[0]} dB on the mean by GPTQ ({least[0]} to {most[0]}, three seeds) and {average[1]} by "
        f"Attention Round ({least[1]} to {most[1]}, two seeds); from 1,024, by GPTQ, {average[2]} ("
    )
    assert said in page("how-it-works.md").replace("\n", " ")


def test_mirror_images_gain_what_the_page_says():
    gains = {}
    for (network, *_), gain in gains_of("mirrored").items():
        gains.setdefault(network, []).append(gain)
    said = "it gains 0.0 to 0.8 dB on the ResNet and from -0.5 to 0.9 on the MobileNetV2"
    assert said in page("how-it-works.md").replace("\n", " ")
    for network, least, most in (("resnet18_slim", 0.0, 0.8), ("mobilenetv2_050", -0.5, 0.9)):
        assert [round(end(gains[network]), 1) for end in (min, max)] == [least, most]
