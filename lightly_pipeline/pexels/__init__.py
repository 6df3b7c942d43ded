"""Find videos on Pexels and download them: pypexels behind a thin adapter, and a careful download."""
