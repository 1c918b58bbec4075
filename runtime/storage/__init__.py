"""Matrices that lie on a disk, or are made when they are asked for; and checkpoints of what was made of them."""
