"""A connector for one group of layers that keeps the pages of finished requests in a dictionary: for tests beside kvpool."""

import dataclasses

from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorBase_V1, KVConnectorMetadata, SupportsHMA

PAGE_TOKENS = 128


@dataclasses.dataclass
class Metadata(KVConnectorMetadata):
    loads: list
    saves: list


class SecondConnector(KVConnectorBase_V1, SupportsHMA):
    keeps = False  # what finishes from now on
    known: dict = {}  # the prompt's tokens in whole pages -> those pages, of each layer

    def __init__(self, vllm_config, role, kv_cache_config=None):
        super().__init__(vllm_config, role, kv_cache_config)
        self.caches, self.received = [], set()
        self.planned = Metadata([], [])

    @staticmethod
    def key(request):
        tokens = request.prompt_token_ids
        return tuple(tokens[: (len(tokens) - 1) // PAGE_TOKENS * PAGE_TOKENS])

    # ---- scheduler ----

    def get_num_new_matched_tokens(self, request, num_computed_tokens):
        more = len(self.key(request)) - num_computed_tokens
        return (more, True) if more > 0 and self.key(request) in self.known else (0, False)

    def update_state_after_alloc(self, request, blocks, num_external_tokens):
        if num_external_tokens > 0:
            self.planned.loads.append((request.request_id, self.key(request), blocks.get_block_ids()[0]))

    def build_connector_meta(self, scheduler_output):
        planned, self.planned = self.planned, Metadata([], [])
        return planned

    def request_finished(self, request, block_ids):
        return self.request_finished_all_groups(request, (block_ids,))

    def request_finished_all_groups(self, request, block_ids):
        if self.keeps:
            self.planned.saves.append((request.request_id, self.key(request), block_ids[0]))
        return self.keeps, None  # the pages stay until they are copied

    # ---- worker ----

    def register_kv_caches(self, kv_caches):
        self.caches = list(kv_caches.values())

    def start_load_kv(self, forward_context, **kwargs):
        for name, key, pages in self._get_connector_metadata().loads:
            for cache, kept in zip(self.caches, self.known[key]):
                cache[pages[: len(kept)]] = kept
            self.received.add(name)

    def wait_for_layer_load(self, layer_name):
        pass

    def save_kv_layer(self, layer_name, kv_layer, attn_metadata, **kwargs):
        pass

    def wait_for_save(self):
        pass

    def get_finished(self, finished_req_ids):
        saves = self._get_connector_metadata().saves
        for _, key, pages in saves:
            self.known[key] = [cache[pages[: len(key) // PAGE_TOKENS]].clone() for cache in self.caches]
        received, self.received = self.received, set()
        return {name for name, *_ in saves}, received
