//! Executor of lastmile on candle tensors: the numeric reference
