//! Overrides through their public face.
