"""Wrong words on the command line: one line that says what may be given instead."""

import sys

import pytest
from hydra import compose, initialize_config_dir
from tests import processes
from tests.conftest import ROOT

from attnround.cli import evaluate, export, rows, sweep, tables, train, verify
from attnround.cli.entry import own_choices
from attnround.cli.parsed import at_home, split
from attnround.cli.words import check, check_given, explained
from attnround.errors import InputError

ENTRIES = {each.__name__.rpartition(".")[2]: each for each in (evaluate, export, sweep, tables, train, verify)}
QUANTIZERS = "attention_round, coordinate_descent, flexround, gptq, nearest, nearest_calibrated, stochastic"


@pytest.fixture
def said(monkeypatch, tmp_path):
    """What an entry says of these words before it exits."""
    monkeypatch.chdir(tmp_path)

    def run(line: str) -> str:
        entry, *words = line.split(" ")
        monkeypatch.setattr(sys, "argv", [f"src/{entry}.py", *words])
        with pytest.raises(SystemExit) as stopped:
            ENTRIES[entry].main()
        return stopped.value.code

    return run


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("train quantiser=nearest", "train has no option quantiser: give quantizer=nearest"),
        ("train seeed=1", "train has no option seeed: give seed=1"),
        ("train bitz=1", "train has no option bitz: give bits=..."),
        ("train sigma=0.3", "train has no option sigma: give quantizer.sigma=0.3"),
        (
            "train bit_width=3",
            "train has no option bit_width: give bits=uniform bits.bit_width=3 "
            "or activation=lsq activation.bit_width=3",
        ),
        ("train training.lr=1", "train has no option training: give experiment=pretrain training.lr=1"),
        ("train evaluation.limit=9", "train has no option evaluation: give data.limit=9"),
        ("train quantiser.sigma=1", "train has no option quantiser: give quantizer.sigma=1"),
        (
            "train quantizer.sgma=1",
            "quantizer=attention_round has no sgma: give quantizer.sigma or quantizer.sigma_end",
        ),
        (
            "train quantizer={sgma:1}",
            "quantizer=attention_round has no sgma: give quantizer.sigma or quantizer.sigma_end",
        ),
        ("train ~quantizer.sgma", "quantizer=attention_round has no sgma: give quantizer.sigma or quantizer.sigma_end"),
        ("train bits.bit_width=3", "bits=mixed has no bit_width: give bits=uniform bits.bit_width=3 or bits.budget"),
        (
            "train activation.bit_width=4",
            "activation=none has no bit_width: "
            "give activation=lsq activation.bit_width=4 (minmax, mse, percentile too)",
        ),
        (
            "train bits=auto bits.budget=3",
            "bits=auto has no budget: give bits=mixed bits.budget=3 (fisher, random, rate_distortion and 2 more too) "
            "or bits.allocator.budget",
        ),
        ("train quantizer=nearest quantizer.x=1", "quantizer=nearest has no x: it has no options"),
        ("train paths.x=1", "paths=default has no x: it has root, shipped, assets, downloads"),
        (
            "train reconstruction.observer.nrm=2",
            "reconstruction.observer has no nrm: give reconstruction.observer.norm",
        ),
        ("train seed.x=1", "seed is a single value: give seed=..."),
        ("train +bits.budget=3", "it is there already: give bits.budget=3"),
        ("train +quantizer=nearest", "quantizer is chosen already: give quantizer=nearest"),
        ("train bits.pinned.conv1.0=4", "bits.pinned has no conv1.0 yet: give '+bits.pinned={conv1.0: 4}'"),
        (
            "train bits.pinned.frist=4",
            "bits.pinned has no frist yet: give bits.pinned.first or '+bits.pinned={frist: 4}'",
        ),
        ("train model.arguments.x=1", "model.arguments has no x yet: give '+model.arguments={x: 1}'"),
        ("train quantizer=nearest,gptq", "give -m for a run each"),
        ("train logger=csv,wandb", "give -m for a run each, or 'logger=[csv,wandb]' for a list"),
        ("train seed=range(1,3)", "give -m for a run each"),
        (
            "train hydra.launcher.n_jbs=1 hydra/launcher=joblib",
            "hydra.launcher has no n_jbs: give hydra.launcher.n_jobs",
        ),
        (
            "train bits.pinned={last",
            "{ has no }: give all of it in quotes for the shell, such as 'bits.pinned={first: 8}'",
        ),
        (
            "train bits.candidates=[2,",
            "[ has no ]: give all of it in quotes for the shell, such as 'bits.candidates=[2, 4]'",
        ),
        (
            "train data.root=/it's",
            "give such a value in quotes, and all of it in the shell's: \"data.root='/it\\'s'\"",
        ),
        ("train data.root=/a,b", "give -m for a run each, or \"data.root='/a,b'\" for a path with commas"),
        ("train model.name=a(b", "give such a value in quotes, and all of it in the shell's: \"model.name='a(b'\""),
        ("train nearest", "give quantizer=nearest"),
        ("train =3", "give name=value"),
        ("train quantizer._target_=os.system", "the class of an option stands in its file and cannot be given here"),
        ("train +data.x=[{_target_:os.system}]", "the class of an option stands in its file and cannot be given here"),
        ("train ~quantizer._target_", "the class of an option stands in its file and cannot be given here"),
        ("train --quantizer nearest", "there is no such flag: an option is given as name=value, see --help"),
        ("evaluate chekpoint=x", "evaluate has no option chekpoint: give checkpoint=x"),
        (
            "evaluate quantizer=gptq",
            "evaluate has no option quantizer: give one of data, trainer, paths, model, task, metric, checkpoint, "
            "factory, arguments, seed, debug",
        ),
        ("verify folder=x data.limitt=3", "data=fashion_mnist has no limitt: give data.limit"),
        ("export folder=x formt=onnx", "export has no option formt: give format=onnx"),
        ("tables table=rounding", "tables has no option table: give tables=rounding"),
        ("tables dry_rn=true", "tables has no option dry_rn: give dry_run=true"),
    ],
)
def test_a_wrong_word_is_named_with_what_may_be_meant(said, line, wanted):
    answer = said(line)
    word = next(each for each in line.split(" ")[1:] if f"error: {each}: " in answer)
    assert answer == f"error: {word}: {wanted}"


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("train quantizer=adaroundd", f"quantizer=adaroundd: give one of adaround, {QUANTIZERS}"),
        ("train quantizer=foo", f"quantizer=foo: give one of adaround, {QUANTIZERS}"),
        (
            "train bits=4",
            "bits=4: give one of auto, file, fisher, mixed, random, rate_distortion, sensitivity, uniform",
        ),
        ("train qat=null", "qat=null: give one of lsq, none"),
        ("train logger=[csv,foo]", "logger=foo: give one of csv, mlflow, tensorboard, wandb"),
        ("train hydra/job_logging=x", "hydra/job_logging=x: give one of default, disabled, none, stdout"),
        ("evaluate checkpoint=x trainer=tpu", "trainer=tpu: give one of gpu, cpu, ddp"),
    ],
)
def test_a_wrong_choice_ends_with_the_choices_of_its_group_near_ones_first(said, line, wanted):
    assert said(line) == f"error: {wanted}"


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("train -m quantizer=nearest,adaroundd", f"quantizer=adaroundd: give one of adaround, {QUANTIZERS}"),
        ("train quantizer=nearest,adaroundd -m seed=0,1", f"quantizer=adaroundd: give one of adaround, {QUANTIZERS}"),
        (
            "train -m quantizer=adaround,nearest quantizer.lr=1",
            "quantizer.lr=1: quantizer=nearest has no lr: give quantizer=attention_round quantizer.lr=1 "
            "(adaround, flexround too)",
        ),
    ],
)
def test_the_jobs_of_a_sweep_are_looked_at_one_by_one(tmp_path, line, wanted):
    """In a process of its own: where openvino was imported before, Hydra's multirun leaves standard output closed."""
    entry, *words = line.split(" ")
    done = processes.run([str(ROOT / f"src/{entry}.py"), *words], tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"error: {wanted}"


def test_a_sweeps_file_and_its_words_are_refused_alike(said):
    file = ROOT / "sweeps/sigma.yaml"
    near = "quantizer.sgma=1: quantizer=attention_round has no sgma: give quantizer.sigma or quantizer.sigma_end"
    assert said(f"sweep {file} quantizer.sgma=1") == f"error: {file}: {near}"
    assert "data=image_folder needs data.root=...: folder" in said(f"sweep {file} data=image_folder")
    assert said(f"sweep {file} quantizer._target_=x").startswith("error: quantizer._target_=x: the class")


def test_a_table_names_itself_and_the_word():
    with pytest.raises(InputError, match=r"^table own: bits=unifrom: give one of uniform, auto"):
        rows.plan("own", [["bits=unifrom", "quantizer=gptq"]], "table own")
    with pytest.raises(InputError, match=r"^table own: quantizer\._target_=x: the class"):
        rows.plan("own", [["quantizer._target_=x"]], "table own")
    with pytest.raises(InputError, match=r"^table own: quantizer\.num_steps=\[3\]: give a number$"):
        rows.plan("own", [["quantizer.num_steps=[3]"]], "table own")


@pytest.mark.parametrize(
    ("entry", "words", "wanted"),
    [
        ("train", ["data=image_folder"], "data=image_folder needs data.root=...: folder that holds val/<class>/"),
        ("train", ["bits=file"], "bits=file needs bits.path=...: an allocation.json of an earlier run"),
        ("evaluate", [], "evaluate needs checkpoint=...: a file that a run or an export left"),
        ("verify", [], "verify needs folder=...: folder of a finished run"),
    ],
)
def test_an_option_without_a_default_is_asked_for_with_what_it_is(entry, words, wanted):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose(entry, words, return_hydra_config=True)
    choices = own_choices(config.hydra.runtime.choices)
    with pytest.raises(InputError) as refused:
        check_given(config, choices, entry)
    assert str(refused.value).startswith(wanted)


def test_what_fits_is_let_through():
    check(
        [
            "quantizer=nearest",
            "bits.pinned={}",
            "model.checkpoint=best_target_.pth",
            "quantizer='gptq','nearest'",
            "run",
        ]
    )
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        check_given(compose("train", ["bits=uniform"]), {}, "train")


def test_an_error_that_no_word_explains_is_told_as_it_is():
    assert explained(InputError("a\n b"), ["quantizer.sgma=1"]) == "a b"
    assert explained(OSError(28, "No space left on device"), []) == "[Errno 28] No space left on device"


def test_flags_may_stand_anywhere():
    assert split(["a=1", "-m", "b=2,3", "--cfg", "job"]) == (["a=1", "b=2,3"], ["-m", "--cfg", "job"])
    with pytest.raises(InputError, match="invalid choice: 'jb'"):
        split(["--cfg", "jb"])


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("data.root=~/my photos", "data.root='/home/ann/my photos'"),
        ("data.root='~/my photos'", "data.root='/home/ann/my photos'"),
        ("resume=~", "resume='/home/ann'"),
        ("data.root='~/a,b'", "data.root='/home/ann/a,b'"),
        ("data.root=~/a,~/b", "data.root=~/a,~/b"),  # two values
        ("data.root=a~/b", "data.root=a~/b"),
    ],
)
def test_the_home_folder_stands_for_a_leading_tilde(word, expected, monkeypatch):
    monkeypatch.setenv("HOME", "/home/ann")
    assert at_home(word) == expected
