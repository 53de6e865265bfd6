import matplotlib.pyplot as plt
import pytest

from attnround.experiment.pictures import draw_layers, draw_losses, draw_moved, draw_trials

LAYERS = [
    {"name": "conv1", "unit": "conv1", "bits": 8, "start_sqnr_db": 46.0, "output_sqnr_db": 50.0},
    {"name": "block.conv1", "unit": "block", "bits": 4, "start_sqnr_db": 20.0, "output_sqnr_db": 27.0},
    {"name": "block.conv2", "unit": "block", "bits": 3, "start_sqnr_db": 20.0, "output_sqnr_db": 27.0},
]


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """Draw, check that a picture came of it, and give the figure to look into."""
    closed = []
    monkeypatch.setattr("attnround.experiment.pictures.plt.close", closed.append)

    def draw(function, rows):
        function(rows, tmp_path / "picture.png", "title")
        assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
        return closed[-1]

    yield draw
    monkeypatch.undo()
    plt.close("all")


def test_layers_of_one_unit_are_joined_and_no_others(drawn):
    _, bottom = drawn(draw_layers, LAYERS).axes
    lines = [(list(line.get_xdata()), list(line.get_ydata())) for line in bottom.lines]
    assert lines == [([0], [46]), ([1, 2], [20, 20]), ([0], [50]), ([1, 2], [27, 27])]


def test_what_moved_and_what_stayed_fill_the_bar(drawn):
    rows = [{"name": "a", "moved_one": 20.0, "moved_more": 5.0}, {"name": "b", "moved_one": 0.0, "moved_more": 0.0}]
    (axes,) = drawn(draw_moved, rows).axes
    more, one, none = ([bar.get_height() for bar in bars] for bars in axes.containers)
    assert (more, one, none) == ([5, 0], [20, 0], [75, 100])
    assert [text.get_text() for text in axes.texts] == ["25", "0"]


@pytest.mark.parametrize("count", [1, 5, 21, pytest.param(60, marks=pytest.mark.slow)])
def test_a_panel_a_unit(drawn, count):
    units = [{"name": f"unit{i}", "objective": "layer", "losses": [1.0, 0.1, 0.02]} for i in range(count)]
    panels = [axes for axes in drawn(draw_losses, units).axes if axes.get_visible()]
    assert [axes.get_title("left") for axes in panels] == [unit["name"] for unit in units]
    assert all(axes.get_yscale() == "log" for axes in panels)
    assert list(panels[-1].lines[0].get_ydata()) == [1.0, 0.1, 0.02]


@pytest.mark.parametrize("losses", [[0.5], [0.0], [1.0, 0.0]])
def test_one_value_or_zero_is_drawn_too(drawn, losses):
    drawn(draw_losses, [{"name": "unit", "objective": "layer", "losses": losses}])


def test_stages_are_told_apart(drawn):
    units = [
        {"name": "a", "objective": "layer", "losses": [1.0]},
        {"name": "b", "objective": "block mse", "losses": [1.0, 0.5]},
    ]
    figure = drawn(draw_losses, units)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["layer", "block mse"]
    for look in ("get_color", "get_linestyle", "get_marker"):  # a grey print shows the latter two
        assert getattr(figure.axes[0].lines[0], look)() != getattr(figure.axes[1].lines[0], look)()


def test_a_scale_of_powers_has_plain_numbers(drawn):
    """The style shows a dollar as a dollar, and no formula."""
    units = [{"name": "a", "objective": "layer", "losses": [10.0, 1.0, 0.01]}]
    labels = [label.get_text() for label in drawn(draw_losses, units).axes[0].get_yticklabels()]
    assert {"0.01", "1", "10"} <= set(labels)


def test_trials_are_numbered_in_their_order_and_joined_in_that_of_their_bits(drawn):
    trials = [{"mean_bits": 8.0, "agreement": 99.9}, {"mean_bits": 5.0, "agreement": 98.0}]
    (axes,) = drawn(draw_trials, trials).axes
    assert list(axes.lines[0].get_xdata()) == [5.0, 8.0]
    assert [text.get_text() for text in axes.texts] == ["1", "2"]
