"""A frame of prompts in, one Arrow table of answers, latencies, costs and errors out."""
