"""How long the engine takes to compute tokens, learnt while it runs, and what is worth loading instead."""

from dataclasses import dataclass

# Of the error's weight an observation has lost after as many others.
_MEMORY = 200
# Fewer tokens say nothing of prefill.
_TOKENS_MIN = 16


@dataclass
class _Moments:
    """Sums for a least-squares fit of seconds = fixed + tokens x linear + pairs x quadratic."""

    count: float = 0.0
    tokens: float = 0.0
    pairs: float = 0.0
    seconds: float = 0.0
    tokens_tokens: float = 0.0
    tokens_pairs: float = 0.0
    pairs_pairs: float = 0.0
    tokens_seconds: float = 0.0
    pairs_seconds: float = 0.0

    def add(self, tokens: float, pairs: float, seconds: float) -> None:
        keep = 1 - 1 / _MEMORY
        for name, value in (
            ("count", 1.0), ("tokens", tokens), ("pairs", pairs), ("seconds", seconds),
            ("tokens_tokens", tokens * tokens), ("tokens_pairs", tokens * pairs), ("pairs_pairs", pairs * pairs),
            ("tokens_seconds", tokens * seconds), ("pairs_seconds", pairs * seconds),
        ):
            setattr(self, name, getattr(self, name) * keep + value)


def pairs_of(context: int, tokens: int) -> float:
    """Pairs of a query and a key that attention sees: `tokens` new ones behind `context` others."""
    return tokens * (context + (tokens + 1) / 2)


class PrefillModel:
    """seconds(context, tokens) = a x tokens + b x pairs, a and b not below 0. Thread: one."""

    def __init__(self) -> None:
        self._moments = _Moments()

    def observe(self, tokens: int, pairs: float, seconds: float) -> None:
        """A step computed so many tokens, and so many pairs of attention, in that time."""
        if tokens >= _TOKENS_MIN and seconds > 0:
            self._moments.add(float(tokens), pairs, seconds)

    @property
    def known(self) -> bool:
        return self._moments.count >= 1

    def seconds(self, context: int, tokens: int) -> float:
        """What computing `tokens` behind `context` takes; infinity while nothing is known."""
        if not self.known:
            return float("inf")
        linear, quadratic = self._fit()
        return linear * tokens + quadratic * pairs_of(context, tokens)

    def _fit(self) -> tuple[float, float]:
        m = self._moments
        determinant = m.tokens_tokens * m.pairs_pairs - m.tokens_pairs * m.tokens_pairs
        if determinant > 1e-9 * m.tokens_tokens * m.pairs_pairs:
            linear = (m.tokens_seconds * m.pairs_pairs - m.pairs_seconds * m.tokens_pairs) / determinant
            quadratic = (m.pairs_seconds * m.tokens_tokens - m.tokens_seconds * m.tokens_pairs) / determinant
            if linear >= 0 and quadratic >= 0:
                return linear, quadratic
        # One of the two explains it alone, whichever leaves less.
        by_tokens = m.tokens_seconds / m.tokens_tokens
        by_pairs = m.pairs_seconds / m.pairs_pairs if m.pairs_pairs else 0.0
        return (by_tokens, 0.0) if by_tokens * m.tokens_seconds >= by_pairs * m.pairs_seconds else (0.0, by_pairs)


def worth_loading(model: PrefillModel, load_s: float, context: int, blocks: int, block_tokens: int, first_tokens: int) -> int:
    """How many of the `blocks` that the pool has behind `context` computed tokens are worth loading: none, all,
    or all but the last.

    The first block has first_tokens that are not computed yet. Loading takes load_s for all, in proportion for
    fewer. Pure; compares what remains to be computed and loaded in each case. Prefill cost is convex in the
    context, so that a cut in the middle is never best: none or all are, and the last block alone is where an
    even split of the load's fixed cost may tip it.
    """
    if blocks <= 0:
        return 0
    if not model.known:
        return blocks
    tokens = first_tokens + (blocks - 1) * block_tokens

    def cost(loaded: int) -> float:
        done = 0 if loaded == 0 else first_tokens + (loaded - 1) * block_tokens
        return load_s * loaded / blocks + model.seconds(context + done, tokens - done)

    return min((blocks, blocks - 1, 0), key=cost)
