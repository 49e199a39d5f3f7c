from run_folders import curve, write_run

from gptlab.report.charts import front_chart, loss_chart, rate_charts
from gptlab.report.colours import numbers
from gptlab.report.theme import DARK, LIGHT
from gptlab.runs.history import read_runs

COLOURS = 6


def seed(folder, number, **settings):
    """A run whose recipe has a seed for its weights and one for its data."""
    write_run(folder, curve(), **settings)
    recipe = (folder / "config.toml").read_text()
    for section in ("[train]\n", "[data]\n"):
        recipe = recipe.replace(section, f"{section}seed = {number}\n")
    (folder / "config.toml").write_text(recipe)
    return folder


def test_seeds_of_a_recipe_share_a_colour_and_nothing_else(tmp_path):
    assert len(LIGHT.curves) == len(DARK.curves) == COLOURS
    folders = [
        seed(tmp_path / f"{position} {number}", number, position=position)
        for number in range(3)
        for position in ("learned", "rope")
    ]
    runs = read_runs(folders)
    assert numbers(runs) == [0, 1, 6, 7, 12, 13]
    front = front_chart(runs)
    assert front is not None
    for chart in (loss_chart(runs), front, *rate_charts(runs)):
        assert {curve.label.split(":")[0]: curve.run for curve in chart.curves if curve.label} == dict(
            zip([run.name for run in runs], numbers(runs), strict=True)
        )


def test_recipes_differ_in_colour_while_there_are_colours(tmp_path):
    runs = read_runs([seed(tmp_path / f"{i}", 0, planned=40 + i) for i in range(2 * COLOURS + 1)])
    assert numbers(runs) == [*range(2 * COLOURS + 1)]
    again = read_runs([seed(tmp_path / "again", 1, planned=40), *(run.folder for run in runs)])
    assert len(set(numbers(again))) == len(again)
    assert numbers(again)[:2] == [0, COLOURS]


def test_runs_without_a_recipe_are_no_seeds(tmp_path):
    folders = [write_run(tmp_path / name, curve()) for name in "ab"]
    for folder in folders:
        (folder / "config.toml").unlink()
    assert numbers(read_runs(folders)) == [0, 1]
