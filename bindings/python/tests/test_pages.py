"""PageMover: an engine's pages in NumPy arrays, with a gap in each page and the layers' pages in two orders."""

import concurrent.futures
import threading

import kvpool
import pytest
from demo_blocks import config_of
from kvpool._native import PageMover, PageNumbers

numpy = pytest.importorskip("numpy")

LAYERS, PAGES, BLOCK_PAGES, HEADS, TOKENS, DIM = 4, 32, 4, 2, 16, 64
PAGE_BYTES = HEADS * TOKENS * DIM * 2


@pytest.fixture
def pool(tmp_path):
    with kvpool.Pool(config_of(tmp_path / "pool", buffers="16MiB", device_size="16MiB")) as made:
        yield made


def caches(transposed):
    """As vLLM has them: [pages, heads, tokens, dim], heads or tokens outside."""
    shape = (PAGES, TOKENS, HEADS, DIM) if transposed else (PAGES, HEADS, TOKENS, DIM)
    made = [numpy.zeros((PAGES + 1, *shape[1:]), numpy.float16)[:PAGES] for _ in range(LAYERS)]
    return [cache.transpose(0, 2, 1, 3) for cache in made] if transposed else made


def open_mover(pool, kv, name="kv", **options):
    ns = pool.namespace(kvpool.Geometry(name, BLOCK_PAGES * TOKENS, [BLOCK_PAGES * PAGE_BYTES] * LAYERS))
    layers = [
        (cache.ctypes.data, cache.strides[0], PAGES, list(cache.shape[1:]), list(cache.strides[1:]), 2, 0) for cache in kv
    ]
    return ns, PageMover.open(pool._native, ns, layers, [BLOCK_PAGES], 4 << 20, **options)


def wait(mover, id):
    assert mover.wait_ended(id, 30)
    return {(event_id, kind): blocks for event_id, kind, blocks in mover.events()}


@pytest.mark.parametrize("transposed", [False, True])
def test_pages_come_back_to_other_pages(pool, transposed):
    kv = caches(transposed)
    ns, mover = open_mover(pool, kv)
    random = numpy.random.default_rng(1)
    for cache in kv:
        cache[:] = random.standard_normal(cache.shape)
    before = [cache.copy() for cache in kv]
    keys = [kvpool.key(b"%d" % i) for i in range(3)]
    source = [5, 1, 9, 30, 2, 3, 4, 6, 7, 8, 10, 11]
    mover.store(1, 0, keys, None, source)
    assert mover.wait_gathered(1, 30)
    events = wait(mover, 1)
    assert events[1, PageMover.STORED] == 3 and (1, PageMover.GATHERED) in events
    for cache in kv:
        cache[:] = 0
    consumer = pool.consumer()
    pin = consumer.match(ns, keys).result(30).pin
    assert pin.blocks == 3
    target = [31, 29, 28, 27, 26, 25, 24, 23, -1, 21, 20, 19]
    mover.load(2, pin, 0, 3, target, timeout_s=30)
    assert wait(mover, 2)[2, PageMover.LOADED] == 3
    for cache, wanted in zip(kv, before):
        for here, there in zip(source, target):
            if there >= 0:
                assert numpy.array_equal(cache[there], wanted[here])
        assert not cache[22].any() and not cache[0].any()
    stats = mover.stats()
    assert stats["stored_blocks"] == 3 and stats["loaded_blocks"] == 3 and stats["jobs_under_way"] == 0
    del pin
    mover.close(30)
    with pytest.raises(kvpool.Closed):
        mover.cancel(1)


def test_what_cannot_be_is_refused(pool):
    kv = caches(False)
    ns, mover = open_mover(pool, kv)
    keys = [kvpool.key(b"a")]
    with pytest.raises(kvpool.InvalidArgument, match="pages"):
        mover.store(1, 0, keys, None, [1, 2, 3])
    with pytest.raises(kvpool.InvalidArgument, match="pages"):
        mover.store(1, 0, keys, None, [1, 2, 3, PAGES])
    with pytest.raises(kvpool.InvalidArgument, match="event"):
        mover.store(1, 0, keys, None, [1, 2, 3, 4], after=1)
    with pytest.raises(TypeError):
        mover.store(1, 0, keys, None, "1234")
    layer = (kv[0].ctypes.data, 4096, PAGES, [2, 2], [2, 2], 2, 0)
    with pytest.raises(kvpool.Unsupported, match="overlap"):
        PageMover.open(pool._native, ns, [layer], [BLOCK_PAGES], 4 << 20)
    layer = (kv[0].ctypes.data, 4096, PAGES, [8], [2], 2, 0)
    with pytest.raises(kvpool.InvalidArgument, match="segments"):
        PageMover.open(pool._native, ns, [layer], [BLOCK_PAGES], 4 << 20)


def test_a_pool_closes_its_movers_first(pool):
    _, mover = open_mover(pool, caches(False))
    pool.close()
    with pytest.raises(kvpool.Closed):
        mover.stats()


def test_a_pool_is_closed_while_movers_open(pool):
    kv, opened = caches(False), threading.Event()

    def open_until_closed():
        with pytest.raises(kvpool.Closed):
            while True:
                _, mover = open_mover(pool, kv)
                opened.set()
                mover.close(30)

    with concurrent.futures.ThreadPoolExecutor() as threads:
        opener = threads.submit(open_until_closed)
        assert opened.wait(30)
        pool.close()
        opener.result(30)


def test_a_gpu_that_is_not_there_is_refused(pool):
    with pytest.raises(kvpool.Unsupported, match="cuda|GPU"):
        open_mover(pool, caches(False), gpu=9999)


def test_page_numbers_are_a_list_of_few_words():
    pages = PageNumbers([3, 1, -1])
    pages.extend(pages)
    pages.extend([7, 0], 1)
    pages.extend([7], 2)
    assert pages.tolist() == [3, 1, -1, 3, 1, -1, 0] == list(pages) and len(pages) == 7 and pages[6] == 0
    assert 0 in pages and 2 not in pages
    assert pages.part(5).tolist() == [-1, 0] and pages.part(1, 3).tolist() == [1, -1]
    assert pages.part(8, 9).tolist() == pages.part(3, 1).tolist() == PageNumbers().tolist() == []
    part = pages.part(0, 2)
    part.unwant(1)
    assert part.tolist() == [-1, 1] and pages[0] == 3
    part.unwant(9)
    assert part.tolist() == [-1, -1]
    wanted = PageNumbers([9])
    wanted.extend_wanted(PageNumbers([5, 0, 6, 7, 8]), 0, 4, 1)
    wanted.extend_wanted(pages, 6, 99, 0)
    assert wanted.tolist() == [9, -1, -1, 6, 7, -1]
    with pytest.raises(IndexError):
        pages[7]
    for wrong in ([1 << 31], [1.5], ["1"], 7):
        with pytest.raises(TypeError):
            PageNumbers(wrong)
