"""Serving: one vLLM server for the base and every adapter; it is met over HTTP only."""
