//! What windows of several signals say, judged together.
//!
//! It must never believe one signal more because there are many.
//!
//! Start reading at [`believed`].

use super::Alarm;
use crate::{benjamini_hochberg, psi_limit};

/// A window beside what is usual.
pub(super) struct Look {
    /// What it is, if it is believed.
    pub(super) alarm: Alarm,
    /// How often as much differs by chance, by Kolmogorov and Smirnov; 1 where the index says that it does not matter.
    pub(super) p: f64,
    /// The population stability index.
    pub(super) psi: f64,
    /// Values of what is usual, and of the window.
    pub(super) n: (u64, u64),
    pub(super) n_bins: usize,
}

/// Those that differ, by both: when nothing changed there are some with probability `alpha`, over all of them.
pub(super) fn believed(looks: Vec<Look>, alpha: f64) -> Vec<Alarm> {
    let p_values: Vec<f64> = looks.iter().map(|look| look.p).collect();
    let adjusted = benjamini_hochberg(&p_values);
    let of_each = alpha / looks.len().max(1) as f64;
    let differs = |look: &Look| look.psi > psi_limit(look.n.0, look.n.1, look.n_bins, of_each);
    let judged = looks.into_iter().zip(adjusted);
    let judged = judged.filter(|(look, p)| *p < alpha && differs(look));
    judged.map(|(look, _)| look.alarm).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Signal;

    fn look(signal: Signal, p: f64, psi: f64) -> Look {
        let examples = Vec::new();
        let alarm = Alarm { signal, is_up: None, by: "window", began_ago: 200, examples };
        Look { alarm, p, psi, n: (4096, 200), n_bins: 10 }
    }

    fn signals(found: &[Alarm]) -> Vec<Signal> {
        found.iter().map(|alarm| alarm.signal).collect()
    }

    #[test]
    fn two_that_differ_a_little_are_believed_where_one_is_not() {
        let others = || {
            [Signal::TtftMs, Signal::TpotMs, Signal::CacheHit].map(|signal| look(signal, 1.0, 0.0))
        };
        let length = || look(Signal::OutputTokens, 0.004, 1.0);
        let with = |more: Vec<Look>| more.into_iter().chain(others()).collect::<Vec<Look>>();
        let both = with(vec![length(), look(Signal::PromptTokens, 0.006, 1.0)]);
        assert_eq!(signals(&believed(both, 0.018)), [Signal::OutputTokens, Signal::PromptTokens]);
        let one = with(vec![length(), look(Signal::PromptTokens, 0.5, 1.0)]);
        assert!(believed(one, 0.018).is_empty());
        assert!(believed(Vec::new(), 0.018).is_empty());
    }

    #[test]
    fn what_is_certain_and_does_not_matter_is_not_believed() {
        let found = vec![look(Signal::OutputTokens, 1e-9, 0.12), look(Signal::TtftMs, 1e-9, 0.5)];
        assert_eq!(signals(&believed(found, 0.01)), [Signal::TtftMs]);
    }
}
