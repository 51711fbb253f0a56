//! Wire types of lastmile's HTTP API and their conversions; no I/O
