"""The parts of the demo: its stage, the load, the proof."""
