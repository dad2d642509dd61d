"""vLLM with kvpool below it: the second question about a document does not wait for its prefill.

    python examples/vllm_offline.py MODEL [CONFIG]     CONFIG: a kvpool.toml, by default the one beside this file
"""

import argparse
import os
import pathlib
import time

# The scheduler and the worker share one pool, so they have to be in one process. On a GPU they are.
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
# vLLM 0.26 starts its hashes at random otherwise.
os.environ.setdefault("PYTHONHASHSEED", "0")


def main(model: str, config: str) -> None:
    from vllm import LLM, SamplingParams

    llm = LLM(
        model=model,
        skip_tokenizer_init=True,  # token ids in, token ids out
        enforce_eager=True,
        kv_transfer_config={
            "kv_connector": "KVPoolConnector",
            "kv_role": "kv_both",
            "kv_load_failure_policy": "recompute",
            "kv_connector_extra_config": {"config": config},
        },
    )
    sampling = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True, detokenize=False)
    document = [3 + i * 7919 % 900 for i in range(2048)]
    answers = []
    for question in ([11, 12, 13], [21, 22, 23], [11, 12, 13]):
        begin = time.monotonic()
        [output] = llm.generate([{"prompt_token_ids": document + question}], sampling, use_tqdm=False)
        answers.append(list(output.outputs[0].token_ids))
        print(f"{output.num_cached_tokens} of {len(document) + 3} tokens were there, {time.monotonic() - begin:.3f} s")
        llm.reset_prefix_cache()  # as if others had used the pages meanwhile: now only the pool has them
    print("the same question has the same answer" if answers[0] == answers[2] else "ANSWERS DIFFER")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("config", metavar="CONFIG", nargs="?", default=str(pathlib.Path(__file__).with_name("kvpool.toml")))
    options = parser.parse_args()
    main(options.model, options.config)
