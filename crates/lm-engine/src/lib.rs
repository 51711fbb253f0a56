//! The engine loop of lastmile: one thread that owns clock, channels and counters
