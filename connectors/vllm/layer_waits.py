"""Makes the GPU wait for loads layer by layer, so that a step may compute while later layers still come.

A step writes a layer's pages before vLLM names the layer, and pages of a request that was aborted may be another's by
then. So what waits for a layer waits for the next one, too. REQUIRES, unless parts are waited for at once: a layer's bytes
are no other layer's, and nothing touches them before begin_step(). Thread: the engine's.
"""

from collections.abc import Sequence
from typing import Any


class LayerWaits:
    def __init__(self, layers: Sequence[str]):
        """layers: as loads have them."""
        self._number = {name: number for number, name in enumerate(layers)}
        self._whole = False  # vLLM names them otherwise
        self._named: list[str] | None = []  # by vLLM in its first step; None: that was all layers, in this order
        self._pending: list[tuple[int, Any]] = []  # first layer, event; by layer

    def add(self, parts: list[tuple[int, Any]], at_once: bool = False) -> None:
        """A load's parts: their last layers' ends, and what lies behind them (torch.cuda.Event). at_once: not put off."""
        firsts = [0, *(end for end, _ in parts)]
        self._pending = sorted([*self._pending, *zip(firsts, (event for _, event in parts))], key=lambda part: part[0])
        if at_once:
            self._wait_through(len(self._number))

    def begin_step(self, context: Any) -> None:
        """Before anything of the step is given to the GPU. context: vLLM's ForwardContext; None, and of a step that is one
        CUDA graph: no layer is named."""
        if not self._pending:
            return
        mode = getattr(getattr(context, "cudagraph_runtime_mode", None), "name", "FULL")
        in_order = self._named is None and not self._whole
        names_layers = mode in ("NONE", "PIECEWISE") and isinstance(context.attn_metadata, dict)
        self._wait_through(0 if in_order and names_layers else len(self._number))

    def before(self, layer: str) -> None:
        number = self._number.get(layer)
        if number is None:
            return
        if self._named is not None and not self._whole:
            self._named.append(layer)
        if self._pending:
            self._wait_through(number + 1)

    def wait_for_all(self) -> None:
        """The step's layers have been named, or none of them was."""
        if self._named == list(self._number):
            self._named = None
        elif self._named:
            self._whole = True  # another order, or a layer twice
            self._named.clear()
        self._wait_through(len(self._number))

    def _wait_through(self, layer: int) -> None:
        while self._pending and self._pending[0][0] <= layer:
            self._pending.pop(0)[1].wait()
