"""What a notebook shows of runs, tables and comparisons; the example notebook runs from its first cell to its last."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lantern.errors import UserError
from lantern.report.figures import plot_confusion, plot_gains
from lantern.results.columns import data
from lantern.results.comparison import compare_runs
from lantern.results.load import find_runs, read_run
from tests.results.made_runs import write_run

NOTEBOOK = Path(__file__).resolve().parent.parent.parent / "experiments" / "examples" / "notebook.ipynb"
HOSTILE = "<img src=x onerror=alert(1)>"


def test_a_table_becomes_a_frame_with_a_column_for_every_number(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    table = read_run(write_run(tmp_path, "sdt", "gpt-4o", 0)).table()
    frame = table.to_frame()
    assert isinstance(frame, pandas.DataFrame)
    assert len(frame) == len(table)
    row = table.row(7)
    assert row.merged is not None
    assert row.weights is not None
    shown = frame.iloc[7]
    assert (shown.dialogue, shown.utterance, shown.speaker, shown["index"]) == (
        *(row.dialogue, row.utterance, row.speaker),
        row.index,
    )
    assert shown.gold == (None if row.label is None else table.classes[row.label])
    assert (shown.vanilla, shown.merged) == tuple(table.classes[int(np.argmax(p))] for p in (row.vanilla, row.merged))
    assert [shown[f"merged {name}"] for name in table.classes] == row.merged
    assert [shown[f"weight {name}"] for name in ("vanilla", "band 0", "band 1")] == row.weights
    for band, reply in enumerate(row.fields):
        found = [shown[f"band {band} {name}"] for name in table.classes]
        assert np.isnan(found).all() if reply.probabilities is None else found == reply.probabilities
    plain = read_run(write_run(tmp_path, "sdt", "none", 0)).table().to_frame()
    assert not [name for name in plain.columns if name.startswith(("merged", "band", "weight"))]


def test_a_comparison_becomes_the_frame_of_its_csv(tmp_path: Path) -> None:
    pytest.importorskip("pandas")
    write_run(tmp_path, "sdt", "gpt-4o", 0)
    write_run(tmp_path, "sdt", "none", 0)
    (table,) = compare_runs(find_runs([tmp_path]).runs)
    frame = table.to_frame()
    assert frame.setting.tolist() == [line.name for line in table.lines]
    assert frame.difference_accuracy.iloc[1] == data(table.lines[1])["difference_accuracy"]


def test_without_pandas_one_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = read_run(write_run(tmp_path, "sdt", "gpt-4o", 0)).table()
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith(("pandas", "matplotlib")):
            raise ModuleNotFoundError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match="pip install pandas"):
        table.to_frame()
    with pytest.raises(UserError, match="pip install matplotlib"):
        plot_confusion(read_run(next(tmp_path.iterdir())))


def test_a_notebook_shows_runs_and_comparisons_with_their_answers(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "sdt", "gpt-4o", 0)
    result = json.loads((folder / "metrics.json").read_text())
    (folder / "metrics.json").write_text(json.dumps({**result, "title": HOSTILE}))
    run = read_run(folder)
    (comparison,) = compare_runs([run])
    for shown in (run._repr_html_(), comparison._repr_html_()):
        assert "LLM gpt-4o" in shown
        assert shown.count("<table>") == 1
        assert "<img" not in shown
    assert "&lt;img" in run._repr_html_()
    assert len(repr(comparison)) < 150
    assert len(repr(comparison.lines[0])) < 150


def test_figures_hold_the_numbers(tmp_path: Path) -> None:
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("agg")
    run = read_run(write_run(tmp_path, "sdt", "gpt-4o", 0))
    write_run(tmp_path, "gru", "none", 0)
    (comparison,) = compare_runs(find_runs([tmp_path]).runs)
    (verdict,) = comparison.verdicts
    axes = plot_gains(comparison)
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["sdt + gpt-4o"]
    assert axes.containers[0].lines[0].get_xdata().tolist() == [verdict.gain]
    counts = np.array(run.result["test"]["methods"]["weighted"]["confusion"])
    texts = [int(text.get_text()) for text in plot_confusion(run).texts]
    assert texts == pytest.approx((100 * counts / counts.sum(1, keepdims=True)).ravel(), abs=0.51)
    with pytest.raises(UserError, match="method='best'"):
        plot_confusion(run, "best")
    pyplot.close("all")


def test_the_example_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pandas")
    pytest.importorskip("matplotlib.pyplot").switch_backend("agg")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            exec("".join(cell["source"]), names)
    assert [len(line.runs) for line in names["comparison"].lines] == [1, 1]
