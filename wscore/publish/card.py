"""Model cards: description, loading, provenance, metrics next to baselines, and limits."""

from collections.abc import Sequence
from io import StringIO
from typing import NamedTuple

from ruamel.yaml import YAML

from wscore.publish.card_metrics import Figures, eval_results, metrics_markdown
from wscore.publish.config import PublishConfig
from wscore.publish.provenance import Provenance

TAGS = ("wscore", "weight-space-learning", "neural-network-weights")
TEMPLATE = """\
---
{data}
---

# {title}

{summary}

## Load it

With the code installed (`pip install -e .` in a clone of wscore){root}:

```python
{code}
```

## Evaluation

On held-out training runs, next to simple baselines:

{table}
{note}

## How it was made

| | |
|---|---|
| zoo | {networks:,} networks of {runs:,} training runs, hash `{zoo}` |
| families | {families} |
| images | {datasets} |
| command | `dvc repro {stage}` |
| code | git revision `{revision}` |
| pipeline | dvc.lock `{lock}` |

<details><summary>Parameters</summary>

```yaml
{params}```

</details>

## Limits

{limits}

## Licence

{license}
"""
INDEX = """\
---
{data}
---

# {name}

Models of one zoo of {networks:,} trained networks (hash `{zoo}`). Each folder is self-contained.

| folder | what it is |
|---|---|
{rows}
"""


class CardPart(NamedTuple):
    """Content specific to one published model.

    Attributes:
        name: its folder below the published ones, such as `encoder` or `heads/accuracy`.
        title: of the card.
        summary: description in a few sentences.
        code: Python example from the root of a clone.
        stage: DVC stage that makes it.
        sections: sections of params.yaml that it depends on.
        note: definitions of the metrics.
        limits: limitations, one sentence each.
        figures: metrics.
    """

    name: str
    title: str
    summary: str
    code: str
    stage: str
    sections: Sequence[str]
    note: str
    limits: Sequence[str]
    figures: Figures


def write_card(part: CardPart, origin: Provenance, config: PublishConfig) -> str:
    """Return the card of one part as Markdown with the Hub's YAML head."""
    return TEMPLATE.format(
        data=_data(part, origin, config),
        title=part.title,
        summary=part.summary,
        root="" if config.repo_id else ", from the root of the clone",
        code=part.code.strip(),
        table=metrics_markdown(part.figures),
        note=part.note,
        networks=origin.networks,
        runs=origin.runs,
        zoo=origin.zoo,
        families=", ".join(origin.families) or "not known",
        datasets=", ".join(origin.datasets) or "not known",
        stage=part.stage,
        revision=origin.revision,
        lock=origin.lock,
        params=_yaml({name: origin.params[name] for name in part.sections}),
        limits="\n".join(f"* {line}" for line in part.limits),
        license=config.license,
    )


def write_index(parts: Sequence[CardPart], origin: Provenance, config: PublishConfig) -> str:
    """Return the card of the folder that holds all parts."""
    from huggingface_hub import ModelCardData

    rows = [f"| [{part.name}]({part.name}/README.md) | {part.summary.partition('. ')[0]} |" for part in parts]
    return INDEX.format(
        data=ModelCardData(license=config.license, library_name="wscore", tags=list(TAGS)).to_yaml(),
        name=config.name,
        networks=origin.networks,
        zoo=origin.zoo,
        rows="\n".join(rows),
    )


def _data(part: CardPart, origin: Provenance, config: PublishConfig) -> str:
    from huggingface_hub import ModelCardData

    dataset = f"{config.name} zoo"
    return ModelCardData(
        license=config.license,
        library_name="wscore",
        tags=[*TAGS, part.name.partition("/")[0]],
        model_name=f"{config.name}/{part.name}",
        eval_results=eval_results(part.figures, dataset=dataset, revision=origin.zoo) or None,
    ).to_yaml()


def _yaml(value: object) -> str:
    writer, stream = YAML(typ="safe"), StringIO()
    writer.default_flow_style = None
    writer.width = 110
    writer.dump(value, stream)
    return stream.getvalue()
