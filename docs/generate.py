"""Writes the references that follow from the code, and the schemas of settings. `make docs` runs it."""

from __future__ import annotations

import inspect
import os
import types
import typing
from pathlib import Path

import schemas
from pydantic.fields import FieldInfo

from atoll_agent.settings import AgentSettings
from atoll_contract import bundle, decisions, drift, manifest, messages, reference, requests, topics
from atoll_contract.release import ReleaseTerms
from atoll_dashboard.settings import DashboardSettings
from atoll_link.settings import ENVIRONMENT_PREFIX, Table
from atoll_trainer.settings import TrainerSettings

REFERENCES = Path(__file__).parent / "references"
SETTINGS = Path(__file__).parents[1] / "config" / "schemas"
QOS = {
    "ReadingTopic": "0 or 1, no",
    "PredictionTopic": "that of its reading, no",
    "ChunkTopic": "1, yes",
    "MetadataTopic": "1, yes",
}
MESSAGES = (
    messages.Reading,
    messages.Prediction,
    messages.WindowBounds,
    messages.Label,
    messages.Command,
    decisions.Decision,
    requests.Request,
    requests.Response,
    messages.Status,
    messages.Refusals,
    messages.LoopState,
    messages.SlotStatus,
    messages.Champion,
    messages.Challenge,
    messages.Refusal,
    drift.DriftReport,
    drift.Shift,
    drift.ErrorShift,
)
MANIFEST_PARTS = (
    manifest.ValueSpec,
    manifest.PictureSpec,
    manifest.WindowSpec,
    manifest.Feature,
    manifest.Normalisation,
    manifest.TensorSpec,
    manifest.OutputSpec,
    manifest.PassRules,
    manifest.Training,
)
REFERENCE_PARTS = (
    reference.Reference,
    reference.Histogram,
    reference.ExpectedError,
    reference.Ahead,
)
RETAINED = {"StatusTopic", "SlotTopic", "DriftTopic"}


def settings_page() -> str:
    """Return every key of every settings file, from the docstrings of their tables."""
    lines = [
        "# Settings",
        "",
        "TOML files, validated whole: every fault is reported at once with file, line and key, unknown keys",
        "are faults, and the program exits with status 78. A variable of the environment overrides a key",
        f"of a plain table: `{ENVIRONMENT_PREFIX}BROKER__HOST=broker.lan` is `host` in `[broker]`. Relative",
        "paths are taken from the file's folder.",
        "",
        "`config/schemas/` holds a JSON Schema for each file. An editor that knows TOML (by Taplo or Tombi)",
        "completes keys and marks faults when the first line of the file says where it is:",
        "`#:schema schemas/agent.json`, from the folder of the file.",
        "",
        "Made from the code by `make docs`.",
    ]
    seen: set[type[Table]] = set()
    for title, kind in (
        ("agent.toml", AgentSettings),
        ("trainer.toml", TrainerSettings),
        ("dashboard.toml", DashboardSettings),
    ):
        lines += ["", f"## {title}"]
        for table in tables(kind):
            if table in seen:
                continue
            seen.add(table)
            lines += ["", f"### {schemas.summary(table)}", "", "| key | default | meaning |", "|---|---|---|"]
            meanings = cells(table)
            for name, field in table.model_fields.items():
                lines.append(f"| `{name}` | {default(field)} | {meanings[name]} |")
    return "\n".join(lines) + "\n"


def tables(kind: type[Table]) -> list[type[Table]]:
    """Return the tables below ``kind``, outermost first."""
    found: list[type[Table]] = []
    for field in kind.model_fields.values():
        for inner in tables_in(field.annotation):
            found += [inner, *tables(inner)]
    return found


def tables_in(annotation: object) -> list[type[Table]]:
    """Return the tables that an annotation names."""
    if inspect.isclass(annotation) and not isinstance(annotation, types.GenericAlias):
        return [annotation] if issubclass(annotation, Table) else []
    return [table for part in typing.get_args(annotation) for table in tables_in(part)]


def cells(kind: type) -> dict[str, str]:
    """Return what each attribute means, for the cell of a table."""
    return {name: text.replace("|", "\\|") for name, text in schemas.attributes(kind).items()}


def default(field: FieldInfo) -> str:
    """Return a field's default for the table."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None or isinstance(value, Table) or value in ([], {}):
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def topics_page() -> str:
    """Return every topic with the class that spells it."""
    lines = [
        "# Topics",
        "",
        "`contract/atoll_contract/topics.py` is the only place that spells a topic. Level 4 is always",
        "who writes, which is that client's MQTT user name: one access rule",
        "(`pattern write atoll/v1/+/%u/#`) gives least privilege. Only the trainer may write below",
        "`atoll/v1/releases/`. Made from the code by `make docs`.",
        "",
        "| topic | QoS, retained | what |",
        "|---|---|---|",
    ]
    for name, kind in inspect.getmembers(topics, inspect.isclass):
        if not name.endswith("Topic") or name.startswith("_"):
            continue
        summary = schemas.summary(kind)
        retained = "yes" if name in RETAINED else "no"
        lines.append(f"| `{schemas.spelt(kind)}` | {QOS.get(name, f'1, {retained}')} | {summary} |")
    return "\n".join(lines) + "\n"


def messages_page() -> str:
    """Return every message with its keys."""
    lines = [
        "# Messages",
        "",
        "JSON, UTF-8. Times are milliseconds since the epoch, a number, in keys ending in `_ms`. Unknown",
        "keys are ignored; keys that are null, empty or default are left out. A reading may also be a list",
        "of readings. The classes are in `contract/atoll_contract/messages.py`, golden vectors in",
        "`tests/contract/vectors/`. Made from the code by `make docs`.",
    ]
    for kind in MESSAGES:
        lines += keys_section(kind)
    return "\n".join(lines) + "\n"


def bundle_page() -> str:
    """Return the bundle's files and the keys of its manifest."""
    lines = [
        "# The model bundle",
        "",
        "A release is one `*.atoll` file: a ZIP whose files are stored, not compressed, with deterministic",
        f"bytes, of at most {bundle.MAX_BUNDLE_BYTES // 2**20} MB. Other files than these are refused.",
        "",
        "| file | what |",
        "|---|---|",
        f"| `{bundle.MANIFEST}` | what the model is; below |",
        f"| `{bundle.MODEL}` | the model, for the CPU |",
        f"| `{bundle.GOLDEN}` | windows of raw samples, with the output tensor of each |",
        f"| `{bundle.MODEL_EDGETPU}` | optional: the same model, compiled for the Edge TPU |",
        f"| `{bundle.REFERENCE}` | optional: histograms of features and outputs, for drift |",
        "",
        "Unknown keys of the manifest are refused: a device that does not know what a key means must not",
        "guess. Made from the code by `make docs`.",
    ]
    for kind in (manifest.Manifest, *MANIFEST_PARTS, *REFERENCE_PARTS, ReleaseTerms):
        lines += keys_section(kind)
    return "\n".join(lines) + "\n"


def keys_section(kind: type) -> list[str]:
    """Return the section of one class: its keys and what they mean."""
    doc = schemas.summary(kind)
    fields = getattr(kind, "__struct_fields__", None) or list(kind.model_fields)
    meanings = cells(kind)
    aliases = {name: field.alias or name for name, field in getattr(kind, "model_fields", {}).items()}
    rows = [f"| `{aliases.get(name, name)}` | {meanings[name]} |" for name in fields]
    return ["", f"## {kind.__name__}", "", doc, "", "| key | meaning |", "|---|---|", *rows]


PAGES = {
    "settings.md": settings_page,
    "topics.md": topics_page,
    "messages.md": messages_page,
    "bundle.md": bundle_page,
    "asyncapi.yaml": schemas.asyncapi,
}


def files() -> dict[Path, str]:
    """Return all files that are made, with what is to stand in them."""
    made = {REFERENCES / name: page() for name, page in PAGES.items()}
    made |= {REFERENCES / "schemas" / name: text for name, text in schemas.message_schemas().items()}
    made |= {SETTINGS / f"{name}.json": schemas.settings_schema(name) for name in schemas.SETTINGS}
    return made


def main() -> None:
    """Write the files, and delete those that are made no more."""
    made = files()
    for folder in (REFERENCES / "schemas", SETTINGS):
        folder.mkdir(parents=True, exist_ok=True)
        for path in set(folder.iterdir()) - made.keys():
            path.unlink()
    for path, text in made.items():
        path.write_text(text, encoding="utf-8")
    # The examples stand outside of the repository: without them the page stays as it is.
    if examples := os.environ.get("ATOLL_DATA"):
        from payloads import payloads_page  # noqa: PLC0415 - beside this file

        (REFERENCES / "payloads.md").write_text(payloads_page(Path(examples) / "payloads"), encoding="utf-8")


if __name__ == "__main__":
    main()
