"""Claims of the papers that no theorem settles, measured: `python -m lavasnn.cli.claims CONFIG OUTPUT FIGURE`.

CONFIG has seeds and arguments of `lavasnn.measure.correlation.correlation_by_depth`. OUTPUT gets every seed's numbers, FIGURE
(.svg, .png, .pdf) their means over depth.
"""

from __future__ import annotations

import datetime
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lavasnn.cli import guarded
from lavasnn.cli.common import FILE, OUTPUT_FILE, machine
from lavasnn.config import read_toml
from lavasnn.errors import ConfigError, InputError
from lavasnn.files import write_text
from lavasnn.report.coremap import check_format
from lavasnn.report.figures import over_depth
from lavasnn.sections import Seed

VARIANTS: dict[str, dict[str, Any]] = {
    "LIF": {"neuron": "lif"},
    "DLIF, random pairs": {"neuron": "dlif", "choice": "random"},
    "DLIF, covariance pairs": {"neuron": "dlif", "choice": "covariance"},
}


class Claim(BaseModel):
    """Seeds, and what `correlation_by_depth` takes."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    seeds: tuple[Seed, ...] = Field(default=(0, 1, 2), strict=False, min_length=1)
    layers: int = 5
    n: int = 64
    rho: float = 0.6
    pairs: int = 4
    samples: int = 400
    steps: int = 20
    dv: float = 0.5


def load_claim(path: Path) -> Claim:
    """Read a claim's configuration.

    Raises:
        InputError: No such file.
        ConfigError: Not TOML, an unknown entry or a wrong type.
    """
    try:
        return Claim.model_validate(read_toml(path))
    except ValidationError as error:
        first = error.errors()[0]
        allowed = ", ".join(Claim.model_fields)
        place = ".".join(map(str, first["loc"]))
        raise ConfigError(f"{path}: {place} is {first['input']!r}: {first['msg']}; entries are {allowed}") from None


@click.command()
@click.argument("config", type=FILE)
@click.argument("output", type=OUTPUT_FILE)
@click.argument("figure", type=OUTPUT_FILE)
def claims(config: Path, output: Path, figure: Path) -> None:
    """Measure CONFIG's claim; write OUTPUT (JSON) and FIGURE."""
    import torch

    from lavasnn.measure.correlation import correlation_by_depth

    check_format(figure)
    if output == figure:
        raise InputError(f"claims: numbers and picture would both be written to {figure}")
    claim = load_claim(config)
    torch.set_num_threads(1)
    options = claim.model_dump(exclude={"seeds"})
    results = {
        name: [asdict(correlation_by_depth(seed=seed, **fixed, **options)) for seed in claim.seeds]
        for name, fixed in VARIANTS.items()
    }
    values = {
        "command": f"python -m lavasnn.cli.claims {config.name} FILE FIGURE",
        "config": claim.model_dump(mode="json"),
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "machine": machine(),
        "results": results,
    }
    over_depth(figure, results)
    write_text(output, json.dumps(values, indent=1) + "\n")
    for name, rows in results.items():
        last = [
            sum(row[key][-1] for row in rows) / len(rows) for key in ("covariance", "covariance_floor", "rate", "rate_floor")
        ]
        click.echo(
            f"{name}: behind layer {claim.layers} a covariance difference of {last[0]:.3f} (sampling alone {last[1]:.3f}), "
            f"a rate difference of {last[2]:.3f} ({last[3]:.3f})"
        )


if __name__ == "__main__":
    sys.exit(guarded(lambda: claims.main(standalone_mode=False)))
