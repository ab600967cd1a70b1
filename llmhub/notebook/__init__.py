"""At home in a notebook: the accessors on frames, magics and plots."""
