//! What the pages of failures, fixes, reviews and learning show.
//!
//! It must never read a file.
//!
//! Start reading at [`AsOf`].

use lm_feedback::{Learning, Week};
use serde::Serialize;

use crate::failure_views::{Example, FixView, ProblemView, ReviewView};

/// Up to when the store is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct AsOf {
    /// Unix milliseconds; `None` when it never was.
    pub as_of_ms: Option<i64>,
    /// More is being read at this moment.
    pub is_reading: bool,
    /// The last reading failed; the log says why.
    pub is_failing: bool,
}

/// Problems, what to solve first first.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ProblemPage {
    /// Up to when.
    #[serde(flatten)]
    pub as_of: AsOf,
    /// How many there are in the window.
    pub n_problems: usize,
    /// Answers in the window.
    pub n_answers: u64,
    /// Those of this page.
    pub data: Vec<ProblemView>,
}

/// One problem.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ProblemDetail {
    /// Up to when.
    #[serde(flatten)]
    pub as_of: AsOf,
    /// Its id.
    pub cluster: String,
    /// How it stands in the window; `None` when it did not occur in it.
    pub problem: Option<ProblemView>,
    /// Its newest failures, whenever they were.
    pub examples: Vec<Example>,
    /// What was done about it, newest first.
    pub fixes: Vec<FixView>,
}

/// Fixes, newest first.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FixPage {
    /// Up to when.
    #[serde(flatten)]
    pub as_of: AsOf,
    /// How many there are.
    pub n_fixes: usize,
    /// Those of this page.
    pub data: Vec<FixView>,
}

/// What a reviewer has to look at.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ReviewPage {
    /// Up to when.
    #[serde(flatten)]
    pub as_of: AsOf,
    /// Whose.
    pub reviewer: String,
    /// Failures that are known.
    pub n_failures: u64,
    /// Of them those that nobody reviewed.
    pub n_unreviewed: u64,
    /// Those that the reviewer has.
    pub data: Vec<ReviewView>,
}

/// How fast one learns.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LearningPage {
    /// Up to when.
    #[serde(flatten)]
    pub as_of: AsOf,
    /// From failure to proof, of the window.
    pub learning: Learning,
    /// The last weeks, oldest first.
    pub weeks: Vec<Week>,
}
