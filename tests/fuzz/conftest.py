"""The fuzzer is a script that needs the fuzz extra, so pytest does not collect it."""

collect_ignore = ["fuzz_wires.py"]
