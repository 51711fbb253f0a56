//! Local LLM inference with continuous batching, to embed in a program
