"""Numbers as people read them: three significant digits, a unit, a dash for what was not measured."""

DASH = "\u2014"
THIN = "\u202f"


def digits(value, significant=3):
    """1234.5 -> 1 235, 12.345 -> 12.3, 0.0123 -> 0.0123: no exponent, no digits that were not measured."""
    if value == 0:
        return "0"
    decimals = max(0, significant - 1 - exponent(value))
    return f"{round(value, decimals):,.{decimals}f}".replace(",", THIN)


def exponent(value):
    return int(f"{value:.2e}".split("e")[1])


def round_steps(longest, at_most=5):
    """Axis marks from 0 on: multiples of 1, 2 or 5 times a power of ten."""
    rough = longest / at_most
    power = 10.0 ** exponent(rough)
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    return [index * step for index in range(int(longest / step * 1.001) + 1)]


def count(value):
    return DASH if value is None else f"{value:,.0f}".replace(",", THIN)


def seconds(value):
    if value is None:
        return DASH
    if value == 0:
        return f"0{THIN}s"
    for limit, scale, unit in ((1e-3, 1e6, "\u00b5s"), (0.1, 1e3, "ms"), (120, 1, "s")):
        if value < limit:
            return f"{digits(value * scale)}{THIN}{unit}"
    return f"{digits(value / 60)}{THIN}min"


def gbps(value):
    return DASH if value is None else f"{digits(value)}{THIN}GB/s"


def rate(bytes_per_second):
    return DASH if bytes_per_second is None else gbps(bytes_per_second / 1e9)


def size(value):
    """Decimal units: 1 GB is 10^9 bytes."""
    if value is None:
        return DASH
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= scale:
            return f"{digits(value / scale)}{THIN}{unit}"
    return f"{count(value)}{THIN}B"


def percent(fraction):
    if fraction is None:
        return DASH
    value = fraction * 100
    return f"{value:.0f}{THIN}%" if value >= 10 or value == 0 else f"{value:.1f}{THIN}%"


def tokens(value):
    if value is None:
        return DASH
    return f"{value / 1024:.0f}k" if value >= 1024 and value % 1024 == 0 else count(value)


def times(ratio):
    return f"{ratio:.1f}\u00d7" if ratio < 9.95 else f"{ratio:.0f}\u00d7"


def spread(low, high, form):
    """'3 to 5 GB/s', or one value where both read the same."""
    low, high = form(low), form(high)
    if low == high:
        return low
    unit = low.rpartition(THIN)
    return f"{unit[0] if unit[2] == high.rpartition(THIN)[2] else low} to {high}"


def case_name(case):
    name = f"{case.model}, {tokens(case.tokens)} tokens"
    return name if case.concurrency in (None, 1) else f"{name}, {count(case.concurrency)} at once"
