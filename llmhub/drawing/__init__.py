"""How figures look: colours, axes, names beside points, and how numbers are written where there is little room."""
