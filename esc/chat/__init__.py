"""The LLM layer: messages in, text out, nothing lost.

``transport`` (the openai client against any OpenAI-compatible URL) lies below ``policy`` (cache,
retries, concurrency, budget), and that below the tasks in prediction and mining, which see none of
it.
"""
