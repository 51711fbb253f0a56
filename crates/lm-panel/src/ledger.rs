//! Where a server's memory and a request's time went, as pictures.
//!
//! It must never guess: what is not known is not drawn.
//!
//! Start reading at [`memory`] and [`attempts`].

use crate::{Lane, Lanes, Now, Picture, Span, Width};

const MIB: f64 = 1_048_576.0;

/// The times of one answer, in milliseconds from the request's arrival.
#[derive(Clone, Debug, PartialEq)]
pub struct AttemptTimes {
    /// Which of the request's answers.
    pub choice: u32,
    /// First scheduled.
    pub queue_wait_ms: f64,
    /// The first token; `None` when there was none.
    pub ttft_ms: Option<f64>,
    /// The end.
    pub e2e_ms: f64,
}

/// What each model holds, and the whole process.
#[must_use]
pub fn memory(now: &Now, width: Width) -> Picture {
    let lane = |name: &str, parts: &[(usize, &str, f64)]| {
        let mut from = 0.0;
        let spans =
            parts.iter().filter(|(_, _, bytes)| *bytes > 0.0).map(|(series, what, bytes)| {
                let to = from + bytes / MIB;
                let span = Span { from, to, series: *series, what: (*what).to_owned() };
                from = to;
                span
            });
        Lane { name: name.to_owned(), spans: spans.collect() }
    };
    let mut lanes: Vec<Lane> = now
        .models
        .iter()
        .map(|model| {
            let kv = model.kv_bytes as f64;
            let held = kv * model.kv_usage;
            let weights = model.weights_bytes as f64;
            let parts = [(0, "weights", weights), (1, "KV held", held), (2, "KV free", kv - held)];
            lane(&model.name, &parts)
        })
        .collect();
    if let Some(resident) = now.server.resident_bytes {
        lanes.push(lane("process", &[(3, "resident", resident as f64)]));
    }
    let series = vec!["weights", "KV held", "KV free", "resident"];
    Lanes { title: "Memory (MiB)".to_owned(), unit: "MiB", series, lanes }.draw(width)
}

/// Where the time of each answer went.
#[must_use]
pub fn attempts(attempts: &[AttemptTimes], width: Width) -> Picture {
    let lane = |times: &AttemptTimes| {
        let queued = times.queue_wait_ms.min(times.e2e_ms);
        let span = |from, to, series, what: &str| Span { from, to, series, what: what.to_owned() };
        let mut spans = vec![span(0.0, queued, 0, "queue")];
        match times.ttft_ms {
            Some(ttft) => {
                let first = ttft.clamp(queued, times.e2e_ms);
                spans.push(span(queued, first, 1, "prefill"));
                spans.push(span(first, times.e2e_ms, 2, "decode"));
            }
            None => spans.push(span(queued, times.e2e_ms, 3, "no token came")),
        }
        spans.retain(|span| span.to > span.from);
        Lane { name: format!("answer {}", times.choice), spans }
    };
    Lanes {
        title: "Where the time went (ms)".to_owned(),
        unit: "ms",
        series: vec!["queue", "prefill", "decode", "no token came"],
        lanes: attempts.iter().map(lane).collect(),
    }
    .draw(width)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::{AttemptTimes, attempts, memory};
    use crate::{ModelNow, Now, Width};

    #[test]
    fn a_request_is_queue_prefill_and_decode() {
        let width = Width::new(600).unwrap();
        let good =
            AttemptTimes { choice: 0, queue_wait_ms: 5.0, ttft_ms: Some(20.0), e2e_ms: 50.0 };
        let failed = AttemptTimes { choice: 1, ttft_ms: None, ..good.clone() };
        let picture = attempts(&[good, failed], width);
        let rows: Vec<String> = picture.rows.iter().map(|row| row.join(" ")).collect();
        let expect = [
            "answer 0 queue 0 ms 5 ms",
            "answer 0 prefill 5 ms 15 ms",
            "answer 0 decode 20 ms 30 ms",
            "answer 1 queue 0 ms 5 ms",
            "answer 1 no token came 5 ms 45 ms",
        ];
        assert_eq!(rows, expect);
    }

    #[test]
    fn memory_is_weights_and_the_parts_of_the_cache() {
        let mut now = Now::default();
        let model = ModelNow {
            name: "m".to_owned(),
            weights_bytes: 100 << 20,
            kv_bytes: 40 << 20,
            kv_usage: 0.25,
            ..ModelNow::default()
        };
        now.models.push(model);
        now.server.resident_bytes = Some(150 << 20);
        let picture = memory(&now, Width::new(600).unwrap());
        assert_eq!(picture.rows[1], ["m", "KV held", "100 MiB", "10 MiB"]);
        assert_eq!(picture.rows[3], ["process", "resident", "0 MiB", "150 MiB"]);
    }
}
