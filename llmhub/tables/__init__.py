"""Tables: frames in, prompts, results, costs, plans and files."""
