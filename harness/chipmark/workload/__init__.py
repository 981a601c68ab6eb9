"""Agent workloads: profiles, deterministic generation, transcripts and trace replay."""
