"""What a selection leaves: the names of Lightly's output tree, and one writer per kind of file."""
