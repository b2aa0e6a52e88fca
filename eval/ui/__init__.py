"""The page: talk, compare blind, check pairs, read."""
