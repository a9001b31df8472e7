"""How good an encoder is: zero-shot classification, retrieval, calibration; of a model and of its exports."""

from typing import TYPE_CHECKING

from mobileclip.lazy import install

if TYPE_CHECKING:
    from mobileclip.evaluate.classification_sets import open_classification as open_classification
    from mobileclip.evaluate.evaluation import Progress as Progress
    from mobileclip.evaluate.evaluation import Report as Report
    from mobileclip.evaluate.evaluation import Result as Result
    from mobileclip.evaluate.evaluation import compare as compare
    from mobileclip.evaluate.evaluation import evaluate as evaluate
    from mobileclip.evaluate.evaluation import run as run
    from mobileclip.evaluate.retrieval_sets import open_retrieval as open_retrieval

install(
    __name__,
    dict.fromkeys(("Progress", "Report", "Result", "compare", "evaluate", "run"), "evaluation")
    | {"open_classification": "classification_sets", "open_retrieval": "retrieval_sets"},
)
