//! Chat templates of lastmile, from the model's own metadata
