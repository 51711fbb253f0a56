//! Data pipeline of lastmile: ingest, validate, quarantine, version
