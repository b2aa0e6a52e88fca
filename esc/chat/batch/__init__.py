"""The same requests through engines that take files: OpenAI batch lines in, answers out.

A run's requests that have no stored answer are written as shards, ``batch/NNNN.requests.jsonl``,
whose lines carry the cache key as ``custom_id`` and the body a live request has. An engine leaves
``NNNN.answers.jsonl`` beside each, from which the answers go to the run's own cache: what follows
cannot tell them from live ones. A shard is never changed once it is written; what it lacks in the
end becomes another one.
"""
