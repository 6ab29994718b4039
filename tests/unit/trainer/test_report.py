"""The report and the model card, drawn from evidence."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

from atoll_contract.manifest import Task
from atoll_trainer.evaluate import Evaluated
from atoll_trainer.report import page
from atoll_trainer.report.evidence import Candidate, Evidence, Importance, Row, Shift
from atoll_trainer.report.gather import warnings
from atoll_trainer.runs import Evaluation, Metrics, ModelMetrics, SearchFacts
from atoll_trainer.task import TaskKind

COUNT = 700
RANDOM = np.random.default_rng(0)
TIMES = 1.6e12 + np.arange(COUNT) * 300_000.0
TRUTH = 20 + 5 * np.sin(np.arange(COUNT) / 80)


def evidence(**given) -> Evidence:
    told = (TRUTH + RANDOM.normal(0, 0.5, COUNT))[:, None]
    edges = np.linspace(0, 1, 11)
    facts = {
        "model": "wear",
        "task": Task.REGRESSION,
        "unit": "°C",
        "labels": [],
        "threshold": None,
        "times_ms": TIMES,
        "targets": TRUTH,
        "naive": np.full((COUNT, 1), 20.0),
        "float_outputs": told,
        "int8_outputs": told + 0.02,
        "lsb": 0.05,
        "loss_name": "mean absolute error",
        "loss": 0.4,
        "rows": [
            Row("naive", {"mae": 3.2, "rmse": 3.5}),
            Row("float", {"mae": 0.4, "rmse": 0.5}, 4200, 5.0),
            Row("int8", {"mae": 0.4, "rmse": 0.5}, 2312, 8.4),
        ],
        "candidates": [
            Candidate("linear", "", 0.6, 900, 5.0, is_on_front=True, is_chosen=False),
            Candidate("mlp", "8", 0.45, 2300, 6.0, is_on_front=True, is_chosen=True),
        ],
        "importances": [Importance("heat", 0.9, 0.02), Importance("idle", 0.4, 0.01)],
        "shifts": [Shift("heat", edges, np.full(10, 0.1), np.full(10, 0.1), 0.01)],
        "facts": {"data": "kiln|s.csv"},
        "warnings": ["As int8 its mean absolute error is 3.0% larger than as float."],
    }
    return Evidence(**facts | given)


def a_classification() -> Evidence:
    classes = RANDOM.integers(0, 3, COUNT)
    told = RANDOM.dirichlet(np.ones(3), COUNT)
    figures = {"accuracy": 0.5, "log_loss": 1.0}
    return evidence(
        task=Task.CLASSIFICATION,
        unit=None,
        labels=["good", "worn", "<script>alert(1)</script>"],
        targets=classes.astype(float),
        naive=told * 0 + 1 / 3,
        float_outputs=told,
        int8_outputs=told,
        rows=[Row(name, figures) for name in ("naive", "float", "int8")],
    )


def an_anomaly() -> Evidence:
    scores = np.abs(RANDOM.normal(0, 1, (COUNT, 1)))
    figures = {"flagged": 0.01, "f1": 0.8}
    return evidence(
        task=Task.ANOMALY,
        threshold=3.0,
        targets=np.where(np.arange(COUNT) > 600, 1.0, np.nan),
        naive=scores,
        float_outputs=scores,
        int8_outputs=scores,
        rows=[Row(name, figures) for name in ("naive", "float", "int8")],
    )


def titles(html: str) -> list[str]:
    return re.findall("<h3>(.*?)</h3>", html)


@pytest.mark.parametrize(
    ("made", "shown"),
    [
        (evidence, ["Prediction against truth", "Where it is worst", "Residuals", "Prediction and truth"]),
        (a_classification, ["Confusion matrix", "Precision and recall", "Reliability"]),
        (an_anomaly, ["Score over time"]),
    ],
)
def test_a_page_holds_the_charts_of_its_task_and_nothing_from_elsewhere(made, shown):
    html = page.html(made())

    assert titles(html) == [*shown, "float against int8", "Candidates", "What it looks at", "heat"]
    assert not re.search(r"<script|<link|<img|https?://(?!www\.w3\.org)|url\((?!#)|@import", html)
    assert "&lt;script&gt;" in html or made is not a_classification
    # Every colour is one of the page, so that light and dark have their own.
    assert re.findall(r"(?:fill|stroke): #[0-9a-f]+", html) == []
    assert html.count("var(--model)") > 2


def test_of_several_devices_the_line_is_that_of_one():
    devices = np.arange(COUNT) % 2
    told = (TRUTH + devices * 100)[:, None]

    html = page.html(evidence(int8_outputs=told, devices=devices))

    assert "said of it, of that of 2 devices with the largest errors." in html
    # Of 350 windows there are 150 in a row, all of device 1, off by 100.
    assert "the largest errors: 100 °C on average, 100 over the whole time." in html
    assert "said of it." in page.html(evidence(devices=devices * 0))


def test_the_words_of_the_table_are_explained():
    html, card = page.html(a_classification()), page.card(evidence(naive_kind="last value"))

    assert "<li>accuracy: share of the windows that it tells right</li>" in html
    assert "- naive: the guess without a model, the last value" in card


def test_the_same_evidence_gives_the_same_page():
    one = evidence()

    assert page.html(one) == page.html(one)


def test_a_path_and_rows_without_times_are_drawn_too():
    path = np.repeat(TRUTH[:, None], 4, axis=1)

    html = page.html(
        evidence(
            task=Task.FORECAST,
            times_ms=np.arange(COUNT) * 1000.0,
            targets=path,
            naive=path + 1,
            float_outputs=path,
            int8_outputs=path,
        )
    )

    assert "window of the test part" in html


def test_the_first_sentence_says_what_it_is_worth():
    assert page.verdict(evidence()) == (
        "Off by 0.4 °C on average over 700 untouched windows, 88% less than a naive guess (3.2 °C); "
        "2.3 KB; 8 µs an answer."
    )
    assert page.verdict(a_classification()).startswith("Right for 50.0% of 700 untouched windows")
    assert "F1 0.800" in page.verdict(an_anomaly())


def test_the_card_and_the_document_say_the_same():
    card, document = page.card(evidence()), page.document(evidence())

    assert page.verdict(evidence()) in card
    assert "| int8 | 0.4 | 0.5 | 2,312 | 8.4 |" in card
    assert "- heat: shuffled, the mean absolute error rises from 0.4 to 0.9" in card
    assert "kiln\\|s.csv" in card
    assert json.loads(json.dumps(document, allow_nan=False))["verdict"] == page.verdict(evidence())


def test_without_truth_or_search_the_page_is_shorter():
    blank = replace(an_anomaly(), targets=np.full(COUNT, np.nan), loss=None, importances=[], candidates=[])

    assert titles(page.html(blank)) == ["Score over time", "float against int8", "heat"]
    assert "- Nothing was measured." in page.card(blank)


def test_a_report_tells_of_the_file_that_ships():
    rows = [
        Row("naive", {"mae": 3.2}),
        Row("float", {"mae": 0.4}, 4200, 5.0),
        Row("int8", {"mae": 2.0}, 2312, 8.4),
    ]
    told = TRUTH[:, None]
    one = evidence(rows=rows, ships="float", float_outputs=told, int8_outputs=told + 9, lsb=1.0)

    verdict, html = page.verdict(one), page.html(one)

    assert verdict.startswith("Off by 0.4 °C on average")
    assert verdict.endswith("; 4.2 KB; 5 µs an answer.")
    assert '<tr class="ships"><td>float</td>' in html
    assert "Truth and what the float model said of it." in html
    assert "On average the model is off by +0 °C" in html


def test_what_speaks_against_a_model_is_that_of_the_file_that_ships():
    def metrics(mae: float, saturated: int) -> ModelMetrics:
        return ModelMetrics(mae=mae, latency_us=1.0, saturated=saturated, sha256="0" * 64)

    evaluation = Evaluation(
        windows=500,
        backend="cpu",
        naive_kind="training mean",
        naive=Metrics(mae=1.0),
        float_model=metrics(0.5, 0),
        int8_model=metrics(2.0, 400),
        parity_lsb=3.0,
        lsb=0.1,
    )
    empty = np.zeros(0)
    facts = dict.fromkeys(("times_ms", "targets", "naive", "float_outputs", "int8_outputs"), empty)
    search = SearchFacts(
        window=1, is_float=True, is_cut=False, naive_loss=None, why="", trials=[], candidates=[]
    )
    found = Evaluated(evaluation, TaskKind.REGRESSION, [], None, search=search, **facts)

    [told] = warnings(found, [])
    as_int8 = warnings(replace(found, search=None), [])

    assert told.startswith("It ships as float")
    assert as_int8[0] == "It is no better than a naive guess (training mean)."
    assert as_int8[1:] == [
        "As int8 its mean absolute error is 300.0% larger than as float.",
        "400 of 500 windows exceed what int8 was made for: the nearest value that it knows is taken.",
    ]


def test_a_test_part_without_a_class_and_an_alarm_that_never_rests_are_told():
    def found(kind, labels, targets, figures):
        metrics = ModelMetrics(latency_us=1.0, saturated=0, sha256="0" * 64, **figures)
        evaluation = Evaluation(
            windows=500,
            backend="cpu",
            naive_kind="most frequent class",
            naive=Metrics(),
            float_model=metrics,
            int8_model=metrics,
            parity_lsb=0.0,
            lsb=0.1,
        )
        empty = dict.fromkeys(("times_ms", "naive", "float_outputs", "int8_outputs"), np.zeros(0))
        return Evaluated(evaluation, kind, labels, None, targets=np.array(targets), search=None, **empty)

    classes = ["good", "worn", "broken"]

    assert warnings(found(TaskKind.CLASSIFICATION, classes, [0.0, 1.0, 2.0], {"log_loss": 0.1}), []) == []
    [told] = warnings(found(TaskKind.CLASSIFICATION, classes, [1.0, 1.0], {"log_loss": 0.1}), [])
    assert told == (
        "No window of the test part is 'good' or 'broken': how well that is found is not known. "
        "Always to say 'worn' would be right."
    )
    assert warnings(found(TaskKind.ANOMALY, [], [np.nan], {"flagged": 0.01}), []) == []
    [told] = warnings(found(TaskKind.ANOMALY, [], [np.nan], {"flagged": 0.78}), [])
    assert told.startswith("It calls 78% of the windows abnormal")
