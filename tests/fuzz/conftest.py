"""The fuzzer is a program, which needs the fuzz extra to be imported at all."""

collect_ignore = ["fuzz_wires.py"]
