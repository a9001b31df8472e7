"""Dense tasks on an image encoder: segmentation, detection with masks, depth.

model = mobileclip.dense.load("runs/ade/best")              # or seeded:mci2+semfpn@512
truth = mobileclip.dense.open_set("ADEChallengeData2016", "segmentation", "val")
report = mobileclip.dense.evaluate(mobileclip.dense.predictor(model), truth)
"""

from typing import TYPE_CHECKING

from mobileclip.lazy import install

if TYPE_CHECKING:
    from mobileclip.dense.checkpoint import load as load
    from mobileclip.dense.checkpoint import save as save
    from mobileclip.dense.config import DenseConfig as DenseConfig
    from mobileclip.dense.data.sets import open_set as open_set
    from mobileclip.dense.evaluation import evaluate as evaluate
    from mobileclip.dense.finetune import finetune as finetune
    from mobileclip.dense.model import DenseModel as DenseModel
    from mobileclip.dense.predictor import predictor as predictor

_HOME = {
    "DenseConfig": "config",
    "DenseModel": "model",
    "evaluate": "evaluation",
    "finetune": "finetune",
    "load": "checkpoint",
    "open_set": "data.sets",
    "predictor": "predictor",
    "save": "checkpoint",
}
__all__ = ["DenseConfig", "DenseModel", "evaluate", "finetune", "load", "open_set", "predictor", "save"]

install(__name__, _HOME)
