"""Model cards: description, loading, provenance, metrics next to baselines, and limits."""

from collections.abc import Sequence
from io import StringIO
from typing import NamedTuple

from ruamel.yaml import YAML

from wscore.publish.card_metrics import Figures, eval_results, metrics_markdown
from wscore.publish.config import PublishConfig
from wscore.publish.provenance import MODELS, Provenance

TAGS = ("wscore", "weight-space-learning", "neural-network-weights")
TEMPLATE = """\
---
{data}
---

# {title}

{summary}

**For** {purpose}. **Not for** {misuse}.

## Load it

With the code installed (`pip install -e .` in a clone of wscore){root}:

```python
{code}
```

## Evaluation

On held-out training runs, next to simple baselines:

{table}
{note}

{strangers}

## How it was made

| | |
|---|---|
| size | {size} |
| training data | {training} |
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
        uses: what it is for, and what it is not for.
        strangers: scores on networks unlike those of the zoo.
        base: part whose output it reads; empty for none.
        training: its training data; empty: the zoo.
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
    uses: tuple[str, str] = ("", "")
    strangers: str = ""
    base: str = ""
    training: str = ""


def write_card(part: CardPart, origin: Provenance, config: PublishConfig, *, size: str = "not known") -> str:
    """Return the card of one part as Markdown with the Hub's YAML head; `size` says how large its weights are."""
    return TEMPLATE.format(
        purpose=part.uses[0],
        misuse=part.uses[1],
        strangers=part.strangers,
        size=size,
        training=part.training or _zoo(origin, config),
        data=_data(part, origin, config),
        title=part.title,
        summary=part.summary,
        root="" if config.repo_id else ", from the root of the clone",
        code=part.code.strip().replace(f'"{MODELS}"', f'"{origin.models}"'),
        table=metrics_markdown(part.figures),
        note=part.note,
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


def _zoo(origin: Provenance, config: PublishConfig) -> str:
    """Return which networks a model was trained on, with a link to them."""
    name = config.repository("zoo") if "zoo" in config.datasets else None
    link = f"[{name}](https://huggingface.co/datasets/{name}): " if name else ""
    families, images = (", ".join(names) or "not known" for names in (origin.families, origin.datasets))
    return (
        f"{link}{origin.networks:,} networks of {origin.runs:,} training runs, zoo with the hash `{origin.zoo}`; "
        f"families: {families}; images: {images}"
    )


def _data(part: CardPart, origin: Provenance, config: PublishConfig) -> str:
    from huggingface_hub import ModelCardData

    dataset = f"{config.name} zoo"
    zoo = config.repository("zoo") if "zoo" in config.datasets and not part.training else None
    return ModelCardData(
        datasets=[zoo] if zoo else None,
        base_model=config.repository(part.base) if part.base else None,
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
