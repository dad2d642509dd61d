"""What the GPU waits for, and before which layer."""

from types import SimpleNamespace

import pytest
from kvpool.vllm.layer_waits import LayerWaits

LAYERS = ["l0", "l1", "l2", "l3", "l4", "l5"]
PARTS = [2, 4, 6]  # their ends


class Events:
    def __init__(self):
        self.waited = []

    def parts(self, name="", ends=PARTS):
        return [(end, SimpleNamespace(wait=lambda end=end: self.waited.append(f"{name}{end}"))) for end in ends]


@pytest.fixture
def events():
    return Events()


def context(mode="PIECEWISE", metadata=True):
    return SimpleNamespace(cudagraph_runtime_mode=SimpleNamespace(name=mode), attn_metadata={} if metadata else None)


def compute(waits, events, layers=LAYERS, **more):
    """A step. Returns what had been waited for before each layer, and in all."""
    events.waited.clear()
    waits.begin_step(context(**more))
    before = {"": list(events.waited)}
    for layer in layers:
        waits.before(layer)
        before[layer] = list(events.waited)
    waits.wait_for_all()
    return before, list(events.waited)


def known(layers=LAYERS):
    """After a first step, in which vLLM has named these."""
    waits = LayerWaits(LAYERS)
    compute(waits, Events(), layers)
    return waits


def test_a_step_waits_for_one_layer_more_than_it_reads(events):
    waits = known()
    waits.add(events.parts())
    before, _ = compute(waits, events)
    assert before == {"": ["2"], "l0": ["2"], "l1": ["2", "4"], "l2": ["2", "4"], "l3": ["2", "4", "6"],
                      "l4": ["2", "4", "6"], "l5": ["2", "4", "6"]}  # fmt: skip
    assert compute(waits, events)[1] == [], "once"


@pytest.mark.parametrize("mode", ["NONE", "PIECEWISE"])
def test_steps_without_a_whole_graph_wait_by_layer(events, mode):
    waits = known()
    waits.add(events.parts())
    assert compute(waits, events, mode=mode)[0][""] == ["2"]


@pytest.mark.parametrize("step", [{"mode": "FULL", "layers": []}, {"metadata": False, "layers": []}, {"mode": "LATER"}])
def test_other_steps_wait_for_all_before_they_begin(events, step):
    waits = known()
    waits.add(events.parts())
    assert compute(waits, events, **step)[0][""] == ["2", "4", "6"]


@pytest.mark.parametrize("named", [[], LAYERS[::-1], [*LAYERS, "l5"], LAYERS[:-1]])
def test_layers_that_were_not_named_in_order_are_waited_for_as_a_whole(events, named):
    waits = known(named)
    waits.add(events.parts())
    waits.begin_step(context())
    assert events.waited == ["2", "4", "6"]


def test_names_are_not_gathered_for_ever():
    waits = known(LAYERS[::-1])
    for _ in range(3):
        compute(waits, Events())
    assert waits._named == []


def test_other_layers_are_passed_over(events):
    waits = known([*LAYERS[:2], "encoder", *LAYERS[2:]])
    waits.add(events.parts())
    assert compute(waits, events, ["encoder"])[0]["encoder"] == ["2"]


def test_what_no_layer_has_waited_for_is_waited_for_at_the_end(events):
    waits = known()
    waits.add(events.parts())
    assert compute(waits, events, LAYERS[:1])[1] == ["2", "4", "6"]


def test_loads_of_the_same_step_are_waited_for_together(events):
    waits = known()
    waits.add(events.parts("a"))
    waits.add(events.parts("b", [6]))
    before, waited = compute(waits, events)
    assert set(before[""]) == {"a2", "b6"} and sorted(waited) == ["a2", "a4", "a6", "b6"]


def test_where_others_touch_pages_before_a_step_begins_nothing_is_put_off(events):
    waits = known()
    waits.add(events.parts(), at_once=True)
    assert events.waited == ["2", "4", "6"]
