"""Names of the classes of public data sets, in the order of their ids. Imports nothing heavy."""

from collections.abc import Sequence

from mobileclip.dense.config import Task
from mobileclip.errors import CheckpointError, some

_ADE20K = """
    wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet, sidewalk, person, earth, door,
    table, mountain, plant, curtain, chair, car, water, painting, sofa, shelf, house, sea, mirror, rug, field, armchair,
    seat, fence, desk, rock, wardrobe, lamp, bathtub, railing, cushion, base, box, column, signboard, chest of drawers,
    counter, sand, sink, skyscraper, fireplace, refrigerator, grandstand, path, stairs, runway, case, pool table,
    pillow, screen door, stairway, river, bridge, bookcase, blind, coffee table, toilet, flower, book, hill, bench,
    countertop, stove, palm, kitchen island, computer, swivel chair, boat, bar, arcade machine, hovel, bus, towel,
    light, truck, tower, chandelier, awning, streetlight, booth, television, airplane, dirt track, apparel, pole, land,
    bannister, escalator, ottoman, bottle, buffet, poster, stage, van, ship, fountain, conveyer belt, canopy, washer,
    plaything, swimming pool, stool, barrel, basket, waterfall, tent, bag, minibike, cradle, oven, ball, food, step,
    tank, trade name, microwave, pot, animal, bicycle, lake, dishwasher, screen, blanket, sculpture, hood, sconce, vase,
    traffic light, tray, ashcan, fan, pier, crt screen, plate, monitor, bulletin board, shower, radiator, glass, clock,
    flag
"""

ADE20K: tuple[str, ...] = tuple(" ".join(_ADE20K.split()).split(", "))
"""SceneParse150: the first name of each row of its `objectInfo150.txt` (CSAILVision/sceneparsing)."""

_COCO = {
    1: "person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant",
    13: "stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe",
    27: "backpack, umbrella",
    31: "handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove",
    41: "skateboard, surfboard, tennis racket, bottle",
    46: "wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot, hot dog, pizza",
    60: "donut, cake, chair, couch, potted plant, bed",
    67: "dining table",
    70: "toilet",
    72: "tv, laptop, mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator",
    84: "book, clock, vase, scissors, teddy bear, hair drier, toothbrush",
}  # first id of a run -> its names
_COCO_BY_ID = {first + place: name for first, run in _COCO.items() for place, name in enumerate(run.split(", "))}

COCO: tuple[str, ...] = tuple(_COCO_BY_ID.values())
"""The 80 things of COCO (cocodataset.org, instances_*2017.json)."""
COCO_IDS: tuple[int, ...] = tuple(_COCO_BY_ID)
"""Their ids, 1..90 with gaps."""


def default_labels(task: Task) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Names and ids of the classes of a model that no data set gave any: ADE20K's, COCO's, none for depth."""
    if task == "segmentation":
        return ADE20K, ()
    return (COCO, COCO_IDS) if task == "detection" else ((), ())


def require_labels(own: Sequence[str], labels: Sequence[str], where: str) -> None:
    """See that a model's classes are as many as those of data that it is to be measured or trained on.

    Raises:
        CheckpointError: they are not.
    """
    if len(own) != len(labels):
        raise CheckpointError(
            f"{where} has {len(own)} classes ({some(own)}), the data {len(labels)} ({some(labels)}): "
            "give data of the same classes, or finetune for these."
        )
