"""What the scheduler's side asks of the worker's in one step."""

from dataclasses import dataclass, field

from kvpool._native import PageNumbers


@dataclass
class Load:
    """Blocks of a pinned run into pages. Below 0: a page that is not wanted."""

    id: int
    request_id: str
    pin: object
    block_first: int
    blocks: int
    pages: PageNumbers
    page_ids: PageNumbers  # of the pages from the run's first on, the first group's: for vLLM's recomputation
    pages_of_block: int
    pages_computed: int  # of page_ids, those that were there before
    is_async: bool
    timeout_s: float  # below 0: the pool's own deadline


@dataclass
class Store:
    """Blocks that a request's step fills, out of their pages."""

    id: int
    chain: int
    keys: bytes  # 16 of each block
    parent: bytes | None
    pages: PageNumbers
    events: list = field(default_factory=list)  # of each block; none where nobody wants to know


@dataclass
class Step:
    number: int = 0
    loads: list[Load] = field(default_factory=list)
    stores: list[Store] = field(default_factory=list)
    pages: PageNumbers = field(default_factory=PageNumbers)  # that it may write: no store reads them any more
    cancels: list[int] = field(default_factory=list)
    computes: bool = True  # else it has no tokens: vLLM looks after its connectors alone
