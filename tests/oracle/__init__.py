"""The independent oracle: real page walks on an emulator that nobody here wrote, held against the model."""
