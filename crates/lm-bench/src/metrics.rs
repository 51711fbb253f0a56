//! What clients saw, as numbers, with the definitions of `vllm bench serve`.
//!
//! It must never leave a failed request out of sight: it counts as failed, and in nothing else.
//!
//! Start reading at [`Metrics::of`].

use crate::{Output, Run, Sample};

/// A latency of each request, or of each of its tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// From sending to the first chunk with text. The empty chunk that opens a chat is none, and an answer without text
    /// has none.
    Ttft,
    /// From the first chunk to the end, for each token after the first.
    Tpot,
    /// Between chunks with text.
    Itl,
    /// From sending to the end.
    E2el,
}

/// A distribution, in milliseconds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Spread {
    /// Ascending.
    values_ms: Vec<f64>,
}

/// What a request must keep to be good; milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Goodput {
    /// Longest time to the first token.
    pub ttft_ms: Option<f64>,
    /// Longest time for a token.
    pub tpot_ms: Option<f64>,
    /// Longest time to the end.
    pub e2el_ms: Option<f64>,
}

/// What clients saw.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metrics {
    /// Requests whose answer is complete.
    pub completed: usize,
    /// Of those, answers that ended as they should and had no text.
    pub n_without_text: usize,
    /// Requests that failed.
    pub failed: usize,
    /// Prompt tokens of the completed requests.
    pub total_input_tokens: u64,
    /// Of those, from the server's cache.
    pub cached_tokens: u64,
    /// Answer tokens.
    pub total_output_tokens: u64,
    /// Seconds that the run took.
    pub duration_s: f64,
    /// Completed requests that kept every limit; `None` without limits.
    pub n_good: Option<usize>,
    /// Most chunks with text within one second of the run's clock.
    pub max_output_tokens_per_s: f64,
    /// Most requests that were open within one second.
    pub max_concurrent_requests: usize,
    /// Requests whose tokens the server did not count; their chunks were.
    pub n_counted_by_chunks: usize,
    /// One entry for each request.
    pub output_lens: Vec<u64>,
    /// One entry for each request.
    pub input_lens: Vec<u64>,
    spreads: [Spread; 4],
}

impl Metric {
    /// Every one, as reports list them.
    pub const ALL: [Metric; 4] = [Metric::Ttft, Metric::Tpot, Metric::Itl, Metric::E2el];

    /// As in the keys of a result.
    #[must_use]
    pub fn key(self) -> &'static str {
        match self {
            Metric::Ttft => "ttft",
            Metric::Tpot => "tpot",
            Metric::Itl => "itl",
            Metric::E2el => "e2el",
        }
    }

    /// In words.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Metric::Ttft => "Time to First Token",
            Metric::Tpot => "Time per Output Token (excl. 1st token)",
            Metric::Itl => "Inter-token Latency",
            Metric::E2el => "End-to-end Latency",
        }
    }
}

impl Spread {
    fn new(seconds: impl IntoIterator<Item = f64>) -> Spread {
        let mut values_ms: Vec<f64> = seconds.into_iter().map(|value| value * 1e3).collect();
        values_ms.sort_by(f64::total_cmp);
        Spread { values_ms }
    }

    /// Ascending, in milliseconds.
    #[must_use]
    pub fn values_ms(&self) -> &[f64] {
        &self.values_ms
    }

    /// 0 without values.
    #[must_use]
    pub fn mean(&self) -> f64 {
        self.values_ms.iter().sum::<f64>() / self.values_ms.len().max(1) as f64
    }

    /// Of the whole population, as numpy has it.
    #[must_use]
    pub fn std(&self) -> f64 {
        let mean = self.mean();
        let squares: f64 = self.values_ms.iter().map(|value| (value - mean).powi(2)).sum();
        (squares / self.values_ms.len().max(1) as f64).sqrt()
    }

    /// The value that `percent` of all do not exceed, between two values by their distance.
    #[must_use]
    pub fn percentile(&self, percent: f64) -> f64 {
        let Some(last) = self.values_ms.len().checked_sub(1) else { return 0.0 };
        let at = (percent / 100.0).clamp(0.0, 1.0) * last as f64;
        let (low, high) = (at.floor() as usize, at.ceil() as usize);
        let (below, above) = (self.values_ms[low], self.values_ms[high]);
        below + (above - below) * (at - low as f64)
    }
}

impl Goodput {
    /// Whether anything is asked.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Goodput::default()
    }

    fn is_kept(&self, ttft_s: f64, tpot_s: f64, e2el_s: f64) -> bool {
        let within = |limit: Option<f64>, value_s: f64| limit.is_none_or(|ms| value_s * 1e3 <= ms);
        within(self.ttft_ms, ttft_s) && within(self.tpot_ms, tpot_s) && within(self.e2el_ms, e2el_s)
    }
}

impl Metrics {
    /// Sums a run up. Prompt tokens are the server's count where it gives one, else the sample's.
    #[must_use]
    pub fn of(run: &Run, samples: &[Sample], goodput: &Goodput) -> Metrics {
        let mut metrics = Metrics { duration_s: run.duration_s, ..Metrics::default() };
        let (mut tpots, mut n_good) = (Vec::new(), 0);
        for (output, sample) in run.outputs.iter().zip(samples) {
            let input = output.prompt_tokens.unwrap_or(sample.prompt_tokens as u64);
            metrics.input_lens.push(input);
            if output.error.is_some() {
                metrics.failed += 1;
                metrics.output_lens.push(0);
                continue;
            }
            metrics.n_without_text += usize::from(output.ttft_s.is_none());
            // Text that is no token is a count that is missing.
            let counted = output.completion_tokens.filter(|n| *n > 0 || output.n_chunks == 0);
            metrics.n_counted_by_chunks += usize::from(counted.is_none());
            let n_output = counted.unwrap_or(output.n_chunks);
            metrics.output_lens.push(n_output);
            metrics.completed += 1;
            metrics.total_input_tokens += input;
            metrics.cached_tokens += output.cached_tokens;
            metrics.total_output_tokens += n_output;
            // One token alone has no time per token, nor have tokens without text; for goodput it counts as none.
            let tpot_s = output.ttft_s.filter(|_| n_output > 1);
            let tpot_s = tpot_s.map(|ttft_s| (output.latency_s - ttft_s) / (n_output - 1) as f64);
            tpots.extend(tpot_s);
            // Who waits for a first token that does not come has waited until the end.
            let ttft_s = output.ttft_s.unwrap_or(output.latency_s);
            let is_kept = goodput.is_kept(ttft_s, tpot_s.unwrap_or(0.0), output.latency_s);
            n_good += usize::from(is_kept);
        }
        let done = || run.outputs.iter().filter(|output| output.error.is_none());
        metrics.n_good = (!goodput.is_empty()).then_some(n_good);
        metrics.spreads = [
            Spread::new(done().filter_map(|output| output.ttft_s)),
            Spread::new(tpots),
            Spread::new(done().flat_map(|output| output.itls_s.iter().copied())),
            Spread::new(done().map(|output| output.latency_s)),
        ];
        let seconds = per_second(&run.outputs);
        metrics.max_output_tokens_per_s =
            seconds.iter().map(|second| second.0).max().unwrap_or(0) as f64;
        metrics.max_concurrent_requests = seconds.iter().map(|second| second.1).max().unwrap_or(0);
        metrics
    }

    /// The distribution of one latency.
    #[must_use]
    pub fn spread(&self, metric: Metric) -> &Spread {
        &self.spreads[metric as usize]
    }

    /// Completed requests per second.
    #[must_use]
    pub fn request_throughput(&self) -> f64 {
        self.completed as f64 / self.duration_s
    }

    /// Requests per second that kept every limit.
    #[must_use]
    pub fn request_goodput(&self) -> Option<f64> {
        self.n_good.map(|n| n as f64 / self.duration_s)
    }

    /// Answer tokens per second.
    #[must_use]
    pub fn output_throughput(&self) -> f64 {
        self.total_output_tokens as f64 / self.duration_s
    }

    /// Prompt and answer tokens per second.
    #[must_use]
    pub fn total_token_throughput(&self) -> f64 {
        (self.total_input_tokens + self.total_output_tokens) as f64 / self.duration_s
    }
}

/// Chunks with text and open requests in each second since the first completed request was sent.
pub(crate) fn per_second(outputs: &[Output]) -> Vec<(usize, usize)> {
    let done = || outputs.iter().filter(|output| output.error.is_none());
    let first = done().map(|output| output.start_s).fold(f64::INFINITY, f64::min);
    let end = done().map(|output| output.start_s + output.latency_s).fold(first, f64::max);
    if !first.is_finite() {
        return Vec::new();
    }
    let mut seconds = vec![(0, 0); (end - first) as usize + 1];
    let second = |at: f64| (at - first) as usize;
    for output in done() {
        let last = seconds.len() - 1;
        if let Some(ttft_s) = output.ttft_s {
            let mut at = output.start_s + ttft_s;
            seconds[second(at)].0 += 1;
            for itl in &output.itls_s {
                at += itl;
                seconds[second(at).min(last)].0 += 1;
            }
        }
        let ended = second(output.start_s + output.latency_s);
        seconds[second(output.start_s)..=ended].iter_mut().for_each(|second| second.1 += 1);
    }
    seconds
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PromptBody;

    fn output(start_s: f64, ttft_s: f64, itls_s: &[f64], tokens: Option<u64>) -> Output {
        Output {
            start_s,
            ttft_s: Some(ttft_s),
            latency_s: ttft_s + itls_s.iter().sum::<f64>(),
            itls_s: itls_s.to_vec(),
            n_chunks: itls_s.len() as u64 + 1,
            prompt_tokens: tokens.map(|_| 11),
            completion_tokens: tokens,
            ..Output::default()
        }
    }

    fn metrics(goodput: &Goodput) -> Metrics {
        with(Vec::new(), goodput)
    }

    /// Of the same requests and some more.
    fn with(more: Vec<Output>, goodput: &Goodput) -> Metrics {
        let failed = Output { error: Some("gone".to_owned()), ..Output::default() };
        let mut outputs = vec![
            // Five tokens in three chunks.
            output(0.0, 0.5, &[0.25, 0.25], Some(5)),
            failed,
            // Not counted by the server.
            output(1.0, 0.125, &[0.5], None),
            output(1.5, 0.25, &[], Some(1)),
        ];
        outputs.extend(more);
        let sample = Sample {
            prompt: PromptBody::Text(String::new()),
            prompt_tokens: 10,
            output_tokens: 5,
            recorded_s: None,
        };
        let samples = vec![sample; outputs.len()];
        let run = Run { outputs, duration_s: 2.0, client_cpu_s: 0.0, server_cpu_s: None };
        Metrics::of(&run, &samples, goodput)
    }

    #[test]
    fn an_answer_without_text_is_complete_and_has_no_time_to_its_first_token() {
        let silent = |tokens| Output {
            start_s: 0.5,
            latency_s: 0.75,
            completion_tokens: tokens,
            ..Output::default()
        };
        let found = with(vec![silent(Some(0)), silent(Some(3)), silent(None)], &Goodput::default());
        assert_eq!((found.completed, found.failed, found.n_without_text), (6, 1, 3));
        assert_eq!(found.output_lens, [5, 0, 2, 1, 0, 3, 0]);
        // The last one's tokens were not counted.
        assert_eq!(found.n_counted_by_chunks, 2);
        let usual = metrics(&Goodput::default());
        for metric in [Metric::Ttft, Metric::Tpot, Metric::Itl] {
            assert_eq!(found.spread(metric), usual.spread(metric));
        }
        let ends = [250.0, 625.0, 750.0, 750.0, 750.0, 1000.0];
        assert_eq!(found.spread(Metric::E2el).values_ms(), ends);
        // Its reader waited for the end.
        let n_good = |ttft_ms| {
            let goodput = Goodput { ttft_ms: Some(ttft_ms), ..Goodput::default() };
            with(vec![silent(Some(0))], &goodput).n_good
        };
        assert_eq!((n_good(749.0), n_good(750.0)), (Some(3), Some(4)));
    }

    #[test]
    fn counts_and_rates_are_of_completed_requests() {
        let found = metrics(&Goodput::default());
        assert_eq!((found.completed, found.failed, found.n_counted_by_chunks), (3, 1, 1));
        assert_eq!(
            (found.total_input_tokens, found.total_output_tokens),
            (11 + 10 + 11, 5 + 2 + 1)
        );
        assert_eq!(found.output_lens, [5, 0, 2, 1]);
        assert_eq!((found.request_throughput(), found.output_throughput()), (1.5, 4.0));
        assert_eq!(found.request_goodput(), None);
        assert_eq!((found.max_output_tokens_per_s, found.max_concurrent_requests), (4.0, 3));
    }

    #[test]
    fn latencies_have_vllms_definitions() {
        let found = metrics(&Goodput::default());
        assert_eq!(found.spread(Metric::Ttft).values_ms(), [125.0, 250.0, 500.0]);
        // (1.0 - 0.5) / 4, and (0.625 - 0.125) / 1; a single token has none.
        assert_eq!(found.spread(Metric::Tpot).values_ms(), [125.0, 500.0]);
        assert_eq!(found.spread(Metric::Itl).values_ms(), [250.0, 250.0, 500.0]);
        assert_eq!(found.spread(Metric::E2el).values_ms(), [250.0, 625.0, 1000.0]);
    }

    #[test]
    fn spreads_are_numpys() {
        let spread = Spread::new([0.004, 0.001, 0.002, 0.003]);
        assert_eq!((spread.mean(), spread.percentile(50.0)), (2.5, 2.5));
        assert!((spread.std() - 1.25_f64.sqrt()).abs() < 1e-12);
        assert!((spread.percentile(99.0) - 3.97).abs() < 1e-9);
        assert_eq!((spread.percentile(0.0), spread.percentile(100.0)), (1.0, 4.0));
        let none = Spread::default();
        assert_eq!((none.mean(), none.std(), none.percentile(99.0)), (0.0, 0.0, 0.0));
    }

    #[test]
    fn goodput_counts_who_kept_every_limit() {
        let check = |ttft_ms, tpot_ms, e2el_ms, n| {
            assert_eq!(metrics(&Goodput { ttft_ms, tpot_ms, e2el_ms }).n_good, Some(n));
        };
        check(Some(250.0), None, None, 2);
        check(Some(250.0), Some(125.0), None, 1);
        check(None, Some(125.0), None, 2);
        check(None, None, Some(999.0), 2);
        check(Some(1e9), Some(1e9), Some(1e9), 3);
    }
}
