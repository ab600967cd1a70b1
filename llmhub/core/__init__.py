"""The pure heart: values, errors, framing, folding, keys and the two records everything hangs on."""
