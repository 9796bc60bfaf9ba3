"""Every import of Flower: grids, messages on the wire, the apps."""
