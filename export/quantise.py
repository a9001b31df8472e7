"""A view whose numbers are what the artifact's will be, before it is lowered.

What is written for a runtime is made from this module and judged against it: the same integers, so the two may differ
by the runtime's arithmetic alone.
"""

from typing import TYPE_CHECKING

from torch import nn

from export.targets import FLOATS, Quantisation

if TYPE_CHECKING:
    from export.views import View


def quantised(view: "View", quantisation: Quantisation) -> nn.Module:
    """`view` (fused and rewritten) with the numbers of `quantisation`; the view itself stays as it is."""
    precisions = {quantisation.precision, *quantisation.blocks.values()}
    if precisions <= FLOATS:
        return view
    if "w8a8" in precisions and view.kind == "text":
        from export.text_integers import int8_text_module

        return int8_text_module(view, quantisation)
    if "w8a8" in precisions:
        from export.integers import int8_module

        return int8_module(view, quantisation)
    from export.compress import compressed

    return compressed(view, quantisation)
