"""What the results say, in sentences. Every number and every comparison is computed here from the results; what
the data does not hold is not said."""

from . import form
from .data import TODAY


def headline_case(cases):
    """The longest context of the first model at the lowest concurrency that has our own run."""
    with_ours = [case for case in cases if case.ours] or cases
    if not with_ours:
        return None
    first = [case for case in with_ours if case.model == with_ours[0].model]
    return max(first, key=lambda case: (case.tokens or 0, -(case.concurrency or 0)))


def ratio(slow, fast):
    return slow / fast if slow and fast else None


def ranges_overlap(a, b):
    bounds = (a.seconds_min, a.seconds_max, b.seconds_min, b.seconds_max)
    return None not in bounds and a.seconds_min <= b.seconds_max and b.seconds_min <= a.seconds_max


def compare(ours, other, value, name):
    """'2.9x as fast as NAME', or slower, with a word on noise where the ranges of the two meet."""
    gain = ratio(value(other), value(ours))
    if gain is None:
        return ""
    noise = ", but their ranges overlap: the difference is within the noise" if ranges_overlap(ours, other) else ""
    if gain >= 1:
        return f"{form.times(gain)} as fast as {name}{noise}"
    return f"slower than {name} ({form.times(1 / gain)} its time){noise}"


def wrong_blocks(results):
    counts = [run.wrong_blocks for case in results.cases for run in case.runs]
    counts.append(results.replay.get("wrong_blocks"))
    known = [value for value in counts if isinstance(value, (int, float))]
    return sum(known) if known else None


def headline(results):
    case = headline_case(results.cases)
    ours = case and case.ours
    if not ours or ours.gbps is None:
        return "No run of the pool is among these results."
    words = [f"The KV cache of {form.count(case.tokens)} tokens ({case.model}) came back at {form.gbps(ours.gbps)}"]
    if ours.fraction_of_limit is not None:
        words.append(f", {form.percent(ours.fraction_of_limit)} of what the devices deliver together")
    if ours.ttft_s is not None:
        words.append(f"; with the prefill of a question the first token comes after {form.seconds(ours.ttft_s)}")
    today = case.run(TODAY)
    against = compare(ours, today, lambda run: run.ttft_s, f"today's way ({TODAY})") if today else ""
    return "".join(words) + (f", {against}" if against else "") + "."


def ttft(cases):
    compared = [(case, [run for run in case.runs if run.ttft_s is not None]) for case in cases]
    compared = [(case, runs) for case, runs in compared if len(runs) > 1 and case.ours in runs]
    if not compared:
        return ""
    wins = sum(min(runs, key=lambda run: run.ttft_s) is case.ours for case, runs in compared)
    of = "the one case" if len(compared) == 1 else f"{wins} of {len(compared)} cases"
    name = " or ".join(dict.fromkeys(case.ours.system for case, _ in compared))
    sentence = f"{name} was first in {of}." if wins else f"{name} was first in none of {len(compared)} cases."
    case = headline_case(cases)
    ours = case.ours
    others = [run for run in case.runs if run is not ours and run.ttft_s is not None]
    if ours and others:
        best = min(others, key=lambda run: run.ttft_s)
        words = compare(ours, best, lambda run: run.ttft_s, f"the best of the others, {best.system}")
        if words:
            sentence += f" At {form.case_name(case)} it is {words}."
    return sentence


def throughput(cases):
    runs = [(run, run is case.ours) for case in cases for run in case.runs if run.fraction_of_limit is not None]
    ours = [run.fraction_of_limit for run, is_ours in runs if is_ours]
    others = [run.fraction_of_limit for run, is_ours in runs if not is_ours]
    if not ours:
        return ""
    name = " or ".join(dict.fromkeys(run.system for run, is_ours in runs if is_ours))
    sentence = f"{name} reached {form.spread(min(ours), max(ours), form.percent)} of the limit"
    return sentence + (f"; the others {form.spread(min(others), max(others), form.percent)}." if others else ".")


def at_once(run):
    """In which fraction of the time all devices were busy, at least and at most: how they lay within a bin is not
    known. None where it is not known of every device."""
    lanes = [[min(1, fraction) for fraction in device.busy_over_time] for device in run.timed_devices]
    if len(lanes) < 2 or len(lanes) < len(run.devices):
        return None
    bins = list(zip(*lanes))
    least = sum(max(0, sum(fractions) - len(lanes) + 1) for fractions in bins)
    return least / len(bins), sum(min(fractions) for fractions in bins) / len(bins)


def busy(case):
    ours, today = (case.ours, case.run(TODAY)) if case else (None, None)
    together = at_once(ours) if ours else None
    if together:
        words = f"{ours.system} had all devices at work at once for at least {form.percent(together[0])} of the time"
        others = at_once(today) if today else None
        return words + (f", {TODAY} for at most {form.percent(others[1])}." if others else ".")
    words = []
    for run in case.runs if case else []:
        known = [device for device in run.devices if device.busy_fraction is not None]
        if (run is ours or run is today) and len(known) > 1:
            least = min(known, key=lambda device: device.busy_fraction)
            words.append((run.system, f"{least.name}, the least busy device, worked "
                                      f"{form.percent(least.busy_fraction)} of the time"))
    return sentence("; ".join(f"in {system}, {what}" for system, what in reversed(words)))


def sentence(words):
    return words[:1].upper() + words[1:] + "." if words else ""


def planned_shares(run, probed):
    """{device: planned share}, as the run states it; of our systems else from the profile's bandwidths."""
    stated = {device.name: device.planned_share for device in run.devices if device.planned_share is not None}
    if stated or not run.system.startswith("pooled"):
        return stated
    rates = {device.name: device.read for device in probed if device.read}
    names = [device.name for device in run.devices]
    if not names or not all(name in rates for name in names):
        return {}
    total = sum(rates[name] for name in names)
    return {name: rates[name] / total for name in names}


def shares(case, probed):
    ours = case and case.ours
    if not ours:
        return ""
    placed = [device for device in ours.devices if device.share is not None]
    if not placed:
        return ""
    words = f"{ours.system} read " + ", ".join(f"{form.percent(d.share)} from {d.name}" for d in placed)
    planned = planned_shares(ours, probed)
    off = [abs(device.share - planned[device.name]) for device in placed if device.name in planned]
    if off:
        words += f"; the plan was missed by {max(off) * 100:.1f} percentage points at most"
    return words + "."


def replay(result):
    blocks, hits = result.get("blocks"), result.get("hit_blocks")
    if not isinstance(blocks, (int, float)) or not isinstance(hits, (int, float)) or not blocks:
        return ""
    words = f"Of {form.count(blocks)} blocks that {form.count(result.get('requests'))} requests asked for, "
    words += f"{form.count(hits)} ({form.percent(hits / blocks)}) were in the pool"
    wrong = result.get("wrong_blocks")
    if isinstance(wrong, (int, float)):
        words += "; every one was compared, none was wrong" if wrong == 0 else f"; {form.count(wrong)} were wrong"
    return words + "."
