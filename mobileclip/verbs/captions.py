"""`mobileclip captions`: from noisy web texts to scored captions, several a picture, as side-cars of shards."""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import OmitSubcommandPrefixes, Positional, subcommand

from mobileclip.errors import DataError
from mobileclip.verbs.screen import counted, following, table


@dataclass(frozen=True, kw_only=True)
class Run:
    """Take shards through the stages of a recipe; started again, it goes on where it was.

    mobileclip captions run text-only --shards web/ --out work

    mobileclip captions run quality --shards "web/{00000..00127}.tar" --out work --set embed.model=mobileclip_s2.pt
    coca.model=coca_ViT-L-14 coca.weights=mscoco_finetuned_laion2b_s13b_b90k --engine ray

    mobileclip captions run quality --set embed.model=mobileclip_s2.pt coca.model=coca_ViT-L-14 --show > mine.toml
    """

    recipe: Positional[str]
    """Name of a recipe, or a TOML file of [[stage]] tables."""
    shards: tuple[str, ...] = ()
    """Folders, globs, brace patterns or URLs of tars."""
    out: Path = Path("captions")
    """Folder of the side-cars; nothing is written beside the shards."""
    set: tuple[str, ...] = ()
    """Options of stages, as stage.option=value."""
    engine: Literal["local", "ray", "array"] = "local"
    """Processes of this machine; Ray, in this process or on the cluster at --address; one task of an array of jobs."""
    jobs: int = 0
    """Processes (local, array) or actors at most (ray); 0: one a core, on a cluster as many as it has room for."""
    min_jobs: int = 1
    """Actors that Ray keeps while there is work."""
    address: str = ""
    """Of a Ray cluster; empty starts Ray here."""
    gpus: float = 0.0
    """GPUs a worker, also a fraction."""
    cpus: float = 1.0
    """CPU cores a worker."""
    array: str = ""
    """This task and their number, as 3/128; of SLURM_ARRAY_TASK_ID and SLURM_ARRAY_TASK_COUNT where left out."""
    wait: float = 0.0
    """Seconds that a task of an array waits for what the others have to finish first."""
    watchdog: float = 900.0
    """Seconds without progress after which a worker is ended and its shard tried again."""
    memory_gb: float = 0.0
    """Memory that a worker may hold, 10^9 bytes: near it, it is replaced between two shards, above it ended; 0: any."""
    broken_share: float = 0.01
    """Share of shards that may fail."""
    threads: int = 1
    """Threads a worker that decode pictures."""
    json_keys: tuple[str, ...] = ()
    """String fields of .json that are captions."""
    show: bool = False
    """Print the recipe as TOML with the meaning of every option, and stop."""
    json: bool = False
    """Print the state at the end as JSON."""

    def run(self) -> int:
        """Plan, write the plan, run."""
        from mobileclip.captions import engine, plan, recipe
        from mobileclip.captions.shown import toml_of

        found = recipe.recipe_of(self.recipe, self.set)
        if self.show:
            print(toml_of(found), end="")
            return 0
        array = _array(self.array) if self.engine == "array" else None
        asked = plan.plan_of(
            found,
            self.shards,
            self.out,
            json_keys=self.json_keys,
            threads=self.threads,
        )
        plan.save(asked)
        with following("captions", self.json) as watch:
            done = engine.run(
                asked,
                engine=self.engine,
                jobs=self.jobs,
                min_jobs=self.min_jobs,
                address=self.address or None,
                gpus=self.gpus,
                cpus=self.cpus,
                array=array,
                watchdog=self.watchdog,
                memory_gb=self.memory_gb,
                broken_share=self.broken_share,
                wait=self.wait,
                watch=watch,
            )
        for shard, why in done.failed.items():
            print(f"left out: shard {shard}: {why}", file=sys.stderr)
        return Status(work=self.out, json=self.json).run()


@dataclass(frozen=True, kw_only=True)
class Status:
    """What is finished, from the side-cars alone.

    mobileclip captions status work
    """

    work: Positional[Path]
    """Folder of caption work."""
    json: bool = False
    """Print it as JSON."""

    def run(self) -> int:
        """Read the notes and print."""
        from mobileclip.captions import engine, plan

        found = engine.status(plan.load(self.work))
        if self.json:
            print(json.dumps(found.as_dict(), indent=1, ensure_ascii=False))
            return 0
        rows = [
            [
                stage.name,
                stage.kind,
                f"{stage.done:,} of {stage.shards:,}",
                f"{stage.rows:,}",
                ", ".join(f"{count:,} {name}" for name, count in list(stage.counts.items())[:4]),
                ", ".join(f"{count:,} {name}" for name, count in list(stage.flags.items())[:6]),
                f"{stage.bytes:,}",
            ]
            for stage in found.stages
        ]
        table(f"{self.work}", ["stage", "kind", "shards", "rows", "status", "flags", "bytes"], rows)
        for shard, keys in found.blocked.items():
            for key, why in keys.items():
                print(f"blocked: {shard}/{key}: {why}")
        for shard, why in {**found.failed, **found.troubled}.items():
            print(f"not finished: shard {shard}{': ' if why else ''}{why}")
        return 0


@dataclass(frozen=True, kw_only=True)
class Report:
    """One HTML page: before and after, distributions, a sheet of samples, warnings, licences, provenance.

    mobileclip captions report work --out captions.html
    """

    work: Positional[Path]
    """Folder of caption work."""
    out: Path = Path("captions.html")
    """The page."""
    samples: int = 24
    """Samples on the sheet."""
    seed: int = 0
    """Of their choice."""
    json: bool = False
    """Print the page's place as JSON."""

    def run(self) -> int:
        """Read the side-cars and write the page."""
        from mobileclip.captions import plan
        from mobileclip.captions.report.page import report

        with counted("reading", "shards", self.json) as tell:
            page = report(plan.load(self.work), self.out, samples=self.samples, seed=self.seed, progress=tell)
        print(json.dumps({"page": str(page)}) if self.json else f"{page}: open it in a browser")
        return 0


@dataclass(frozen=True, kw_only=True)
class Select:
    """Select again from scores that are there, in seconds; and write the uids of what is kept in DataComp's form.

    mobileclip captions select work --set select.min_q=0.5 --uids kept.npy
    """

    work: Positional[Path]
    """Folder of caption work."""
    set: tuple[str, ...] = ()
    """Options of the select stage, as select.option=value; they are kept in the plan."""
    uids: Path | None = None
    """File for the sorted uids of the samples that are kept."""
    jobs: int = os.cpu_count() or 1
    """Processes."""
    json: bool = False
    """Print what was kept as JSON."""

    def run(self) -> int:
        """Run what is not finished under the new options, count, write."""
        from mobileclip.captions import engine, plan
        from mobileclip.captions.joined import Joined

        asked = plan.load(self.work, self.set)
        unfinished = [
            stage.name
            for stage in asked.recipe.stages
            if stage.kind != "select" and any(asked.done(stage.name, item) is None for item in asked.shards)
        ]
        if unfinished:
            raise DataError(
                f"{', '.join(unfinished)} would have to run again: only options of select stages can be set here; run "
                "`mobileclip captions run` for others."
            )
        plan.save(asked)
        with counted("selecting", "shards", self.json) as tell:
            engine.run(asked, engine="local", jobs=self.jobs, progress=tell)
        joined = Joined.open(self.work)
        kept, every, why = joined.summary()
        if self.uids is not None:
            joined.write_uids(self.uids)
        if self.json:
            print(json.dumps({"kept": kept, "samples": every, "why": why}, ensure_ascii=False))
        else:
            print(f"{self.work}: {kept:,} of {every:,} samples kept")
            for reason, count in why.items():
                print(f"{count:,} {reason}")
        return 0


@dataclass(frozen=True, kw_only=True)
class Captions:
    """Improve captions: clean, score, deduplicate, write new ones, judge, select; side-cars beside immutable shards.

    mobileclip captions run text-only --shards web/ --out work
    """

    what: OmitSubcommandPrefixes[
        Annotated[Run, subcommand("run")]
        | Annotated[Status, subcommand("status")]
        | Annotated[Report, subcommand("report")]
        | Annotated[Select, subcommand("select")]
    ]

    def run(self) -> int:
        """Do it."""
        return self.what.run()


def _array(text: str) -> tuple[int, int]:
    """`3/128`, or what SLURM says."""
    found = text or "/".join(os.environ.get(f"SLURM_ARRAY_TASK_{name}", "") for name in ("ID", "COUNT"))
    index, slash, count = found.partition("/")
    if not (slash and index.isdigit() and count.isdigit() and int(index) < int(count)):
        raise DataError(f"--array is '{found}': index/count is wanted, index from 0, as in 3/128.")
    return int(index), int(count)
