"""`mobileclip pack`: training shards from procedural scenes, or from shards that exist."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import OmitSubcommandPrefixes, Positional, subcommand

from mobileclip.data.scene_captions import AltNoise
from mobileclip.errors import DataError
from mobileclip.verbs.screen import counted


@dataclass(frozen=True, kw_only=True)
class Scenes:
    """Draw a corpus of scenes with captions of known quality, masks, depth and boxes; the same seed, the same bytes.

    mobileclip pack scenes scenes --count 20000

    mobileclip pack scenes noisy --count 20000 --caption-quality alt --noise.other-image 0.3
    """

    out: Positional[Path]
    """Folder; `train/` and `val/` are made in it."""
    count: int = 20_000
    """Scenes to train on."""
    val_count: int = 512
    """Scenes to measure on, with true captions; none of them is among the others."""
    size: int = 128
    """Side of the pictures in pixels; the same scene at every size."""
    seed: int = 0
    """Of everything."""
    caption_quality: tuple[Literal["alt", "short", "quality"], ...] = ("alt", "short", "quality")
    """Captions of the training samples: web text with the faults below, one true object, or all of it."""
    wordings: int = 3
    """How many captions of each true quality."""
    noise: AltNoise = field(default_factory=AltNoise)
    """How bad web text is."""
    per_shard: int = 1_000
    """Scenes a tar."""
    dense: bool = True
    """Write masks, instances and depth."""
    jobs: int = os.cpu_count() or 1
    """Processes."""
    json: bool = False
    """Print what was written as JSON."""

    def run(self) -> int:
        """Render and write."""
        from mobileclip.data.scenes import write_scenes

        with counted("drawing", "scenes", self.json) as tell:
            out = write_scenes(
                self.out,
                count=self.count,
                val_count=self.val_count,
                size=self.size,
                seed=self.seed,
                caption_quality=self.caption_quality,
                wordings=self.wordings,
                noise=self.noise,
                per_shard=self.per_shard,
                dense=self.dense,
                jobs=self.jobs,
                progress=tell,
            )
        if self.json:
            print((out / "scenes.json").read_text(encoding="utf-8"))
        else:
            print(f"{out}: {self.count:,} scenes in train, {self.val_count:,} in val")
        return 0


@dataclass(frozen=True, kw_only=True)
class Shards:
    """Join shards of any known layout into packed ones: resized once, every caption kept, read by open_clip as well.

    mobileclip pack shards "web/{00000..00127}.tar" --out packed

    mobileclip pack shards --captions work --out packed
    """

    shards: Positional[tuple[str, ...]] = ()
    """Folders, globs, brace patterns or URLs of tars; none with --captions, which knows them."""
    out: Path = Path("packed")
    """Folder of the packed shards."""
    captions: Path | None = None
    """Folder of `mobileclip captions run`: what its last select stage keeps is packed, with its texts."""
    size: int = 288
    """Short side of the stored pictures; 0 keeps them as they are. 288 suits training at 256."""
    quality: int = 92
    """Of JPEG, where a picture is resized."""
    per_shard: int = 10_000
    """Samples a tar."""
    embeddings: Literal["npz", "sidecar-bf16", "sidecar-int8", "none"] = "npz"
    """Where teacher embeddings go."""
    side_cars: Path | None = None
    """Folder of embeddings that belong to the inputs."""
    json_keys: tuple[str, ...] = ()
    """String fields of .json that are captions."""
    licence: str = ""
    """Of the samples that name none."""
    broken_share: float = 0.05
    """Share of samples that may be left out."""
    jobs: int = os.cpu_count() or 1
    """Processes."""
    json: bool = False
    """Print what was written as JSON."""

    def run(self) -> int:
        """Pack; what a run before this one finished is kept."""
        from mobileclip.captions.joined import Joined
        from mobileclip.data.pack import pack_shards

        if bool(self.shards) == (self.captions is not None):
            raise DataError("give either shards or --captions, the folder of caption work that knows its shards.")
        with counted("packing", "shards", self.json) as tell:
            packed = pack_shards(
                self.shards,
                self.out,
                size=self.size or None,
                quality=self.quality,
                per_shard=self.per_shard,
                jobs=self.jobs,
                embeddings="none" if self.captions is not None else self.embeddings,
                captions=None if self.captions is None else Joined.open(self.captions),
                side_cars=self.side_cars,
                licence=self.licence,
                json_keys=self.json_keys,
                broken_share=self.broken_share,
                progress=tell,
            )
        left_out = {name: problem.count for name, problem in packed.problems.items()}
        if self.json:
            print(json.dumps({"shards": packed.shards, "samples": packed.samples, "problems": left_out}))
        else:
            print(f"{packed.folder}: {packed.samples:,} samples in {packed.shards:,} shards ({packed.kept:,} kept)")
            for name, count in left_out.items():
                print(f"{count:,} {name}: {', '.join(packed.problems[name].names[:3])}")
        return 0


@dataclass(frozen=True, kw_only=True)
class Pack:
    """Make training shards: `scenes` draws a corpus, `shards` joins those that exist.

    mobileclip pack scenes scenes --count 20000
    """

    what: OmitSubcommandPrefixes[Annotated[Scenes, subcommand("scenes")] | Annotated[Shards, subcommand("shards")]]

    def run(self) -> int:
        """Do it."""
        return self.what.run()
