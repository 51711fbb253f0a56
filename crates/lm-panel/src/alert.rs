//! What somebody should look at now. The thresholds are those of `deploy/alerts.yml`, on what the
//! server knows by itself.
//!
//! It must never remember: an alert is a fact about one [`Now`].
//!
//! Start reading at [`alerts`].

use serde::{Deserialize, Serialize};

use crate::{CacheMismatchNow, DriftNow, ModelNow, Now, ProbeNow, ServerNow, SinkNow, unattended};

/// How urgent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Requests fail now.
    Critical,
    /// Something is short or slow.
    Warning,
}

/// One thing to look at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alert {
    /// What it is about, the same as long as it goes on, such as `drift m output_tokens`.
    #[serde(default)]
    pub key: String,
    /// How urgent.
    pub level: Level,
    /// In one sentence, with the numbers.
    pub what: String,
    /// What to do or to look at next.
    pub next: String,
    /// Requests that show it, at most five.
    #[serde(default)]
    pub requests: Vec<String>,
}

/// Share of answers that may fail before it is said.
const MOST_ERRORS: f64 = 0.05;
const MOST_TTFT_MS: f64 = 10_000.0;
const MOST_GAP_MS: f64 = 500.0;
const FULL: f64 = 0.95;
/// A jump of the clock is told for so long: the length of what is summed up.
const JUMP_TOLD_S: u64 = 60 * 60;
/// A receiver of alerts may be away for so long.
const MOST_FAILING_MS: i64 = 60_000;
/// A commit on a disk that works takes some milliseconds.
const MOST_COMMIT_MS: u64 = 1_000;

/// Everything that holds of `now`, most urgent first.
#[must_use]
pub fn alerts(now: &Now) -> Vec<Alert> {
    let mut found = Vec::new();
    match now.server.status.as_str() {
        "died" => found.push(critical(
            "died",
            "An engine panicked: it answers nothing any more".to_owned(),
            "Restart the server; the log has the panic.",
        )),
        "stalled" => found.push(critical(
            "stalled",
            "An engine stands still".to_owned(),
            "Its state is in last-stall.json beside the store, and in the log.",
        )),
        "draining" => found.push(warning(
            "draining",
            "The server drains: new requests are refused".to_owned(),
            "It ends once the running answers have.",
        )),
        _ => {}
    }
    now.models.iter().for_each(|model| of_model(model, &mut found));
    now.models.iter().for_each(|model| of_memory(&now.server, model, &mut found));
    now.server.wrong_probes.iter().for_each(|probe| found.push(of_probe(probe)));
    now.server.cache_mismatch.iter().for_each(|one| found.push(of_cache(one)));
    now.server.drifts.iter().for_each(|drift| found.push(of_drift(drift)));
    now.server.failing_sinks.iter().for_each(|sink| of_sink(sink, now.at_ms, &mut found));
    unattended::alerts(now, &mut found);
    if let Some(jump) = now.server.clock_jump.filter(|jump| jump.ago_s < JUMP_TOLD_S) {
        found.push(warning(
            "clock",
            format!("The wall clock jumped by {:+} s within the last hour", jump.by_s),
            "Look at the time service, or the machine slept: times before and after do not compare.",
        ));
    }
    let store = &now.store;
    if store.dropped + store.write_errors > 0 {
        let (dropped, errors) = (store.dropped, store.write_errors);
        found.push(warning(
            "store dropped",
            format!("Since start {dropped} answers were not recorded and {errors} writes failed"),
            "The disk is full, slow or broken. Answers are not affected.",
        ));
    }
    if store.slowest_commit_ms > MOST_COMMIT_MS {
        let (seconds, n) = (store.slowest_commit_ms as f64 / 1e3, store.queue_len);
        found.push(warning(
            "store slow",
            format!(
                "The disk of the store is slow: a commit takes {seconds:.1} s, and {n} answers \
                 wait to be written"
            ),
            "Look at what else writes to it, and at its health. Feedback waits, answers do not.",
        ));
    }
    let (open, limit) = (now.server.open_requests as f64, now.server.open_requests_limit as f64);
    if limit > 0.0 && open > FULL * limit {
        found.push(warning(
            "open requests",
            format!("{open} of {limit} requests are open: more are refused"),
            "Clients that do not close, or more load than this machine answers.",
        ));
    }
    found.sort_by_key(|alert| alert.level);
    found
}

fn of_model(model: &ModelNow, found: &mut Vec<Alert>) {
    let name = &model.name;
    let ended = model.finished_per_s + model.errors_per_s;
    if model.errors_per_s > MOST_ERRORS * ended {
        let percent = 100.0 * model.errors_per_s / ended;
        found.push(warning(
            &format!("errors {name}"),
            format!("{name}: {percent:.0} % of requests fail or are refused"),
            "The last errors say why.",
        ));
    }
    if let Some(ttft) = model.ttft_ms.filter(|ttft| ttft.p99 > MOST_TTFT_MS) {
        let seconds = ttft.p99 / 1000.0;
        found.push(warning(
            &format!("ttft {name}"),
            format!("{name}: first tokens take {seconds:.1} s (p99)"),
            "Look at the queue: what waits, and whose it is.",
        ));
    }
    if let Some(gap) = model.gap_ms.filter(|gap| gap.p99 > MOST_GAP_MS) {
        found.push(warning(
            &format!("gap {name}"),
            format!("{name}: gaps between tokens are {:.0} ms (p99)", gap.p99),
            "Something else takes the cores, or memory is swapped.",
        ));
    }
    if model.kv_usage > FULL && model.waiting > 0 {
        found.push(warning(
            &format!("kv {name}"),
            format!("{name}: the KV cache is full and {} answers wait", model.waiting),
            "A larger --kv-memory or --kv-cache int8 holds more sequences.",
        ));
    }
}

fn of_drift(drift: &DriftNow) -> Alert {
    let DriftNow { model, signal, how, began_ago, .. } = drift;
    let example = drift.examples.first().map_or(String::new(), |id| format!(", such as {id}"));
    let release = if drift.is_other_release { "Another release answers than before. " } else { "" };
    let learned = match drift.is_provisional {
        true => "What is usual was learned in less than two weeks: it may be the hour. ",
        false => "",
    };
    Alert {
        key: format!("drift {model} {signal}"),
        level: Level::Warning,
        what: format!("{model}: {signal} is {how} than usual, for {began_ago} answers{example}"),
        next: format!("{release}{learned}When this is meant, have it forgotten: /ops/v1/monitors."),
        requests: drift.examples.clone(),
    }
}

/// That nobody is told of the other alerts.
fn of_sink(sink: &SinkNow, now_ms: i64, found: &mut Vec<Alert>) {
    let SinkNow { to, waiting, given_up, failing_since_ms, error } = sink;
    let next = "`lastmile monitor test-sink` sends it a test alert.";
    if *given_up > 0 {
        found.push(warning(
            &format!("sink lost {to}"),
            format!("Since start {given_up} alerts were not delivered to {to}: {error}"),
            next,
        ));
    }
    if failing_since_ms.is_some_and(|since| now_ms - since > MOST_FAILING_MS) {
        found.push(warning(
            &format!("sink {to}"),
            format!("{waiting} alerts wait for {to}: {error}"),
            next,
        ));
    }
}

/// An answer that is another one: with a reason a person decides, without one something computes wrongly.
fn of_probe(probe: &ProbeNow) -> Alert {
    let ProbeNow { name, model, at, because, error } = probe;
    let key = format!("probe {name}");
    match at {
        None => warning(
            &key,
            format!("The probe {name} cannot be computed: {error}"),
            "Keep it again with `lastmile probe add`, or remove it.",
        ),
        Some(at) if because.is_empty() => critical(
            &key,
            format!(
                "{model}: the probe {name} differs from token {at} on, and nothing of the release does"
            ),
            "The same computation gives other bits: look at the machine's memory and at what was installed.",
        ),
        Some(at) => warning(
            &key,
            format!(
                "{model}: the probe {name} differs from token {at} on: {} changed",
                because.join(", ")
            ),
            "Go back, or keep the probe again with `lastmile probe add` when this was meant.",
        ),
    }
}

/// An answer that was told twice and is computed otherwise: where bits stay the same, something computes wrongly.
fn of_cache(mismatch: &CacheMismatchNow) -> Alert {
    let CacheMismatchNow { told_to, computed_by, at, n, is_exact } = mismatch;
    let what = format!(
        "Since start {n} answers of the response cache were others when computed again, the last one \
         from token {at} on: {computed_by} computed it, and {told_to} was told it"
    );
    let key = "response cache";
    let alert = match is_exact {
        true => critical(
            key,
            what,
            "Look at the machine's memory. Such an answer is dropped; --response-cache 0 turns the cache off.",
        ),
        false => warning(
            key,
            what,
            "This backend's bits depend on what runs beside, so near ties may be drawn otherwise. Such an answer is dropped.",
        ),
    };
    Alert { requests: vec![told_to.clone(), computed_by.clone()], ..alert }
}

/// A limit that leaves a model no KV cache for two whole contexts.
fn of_memory(server: &ServerNow, model: &ModelNow, found: &mut Vec<Alert>) {
    let Some(ceiling) = server.memory_ceiling_bytes else { return };
    let is_given_out = server.memory_planned_bytes as f64 > FULL * ceiling as f64;
    let positions = model.kv_blocks * model.kv_block_size;
    if is_given_out && positions > 0 && positions < 2 * model.max_model_len {
        let (name, limit, left) = (&model.name, ceiling >> 20, model.kv_bytes >> 20);
        found.push(warning(
            &format!("memory {name}"),
            format!(
                "{name}: the memory limit of {limit} MiB leaves {left} MiB for the KV cache: \
                 {positions} tokens for all answers together"
            ),
            "Raise --memory-limit or the control group's, or take --kv-cache int8.",
        ));
    }
}

pub(crate) fn critical(key: &str, what: String, next: &str) -> Alert {
    Alert { level: Level::Critical, ..warning(key, what, next) }
}

pub(crate) fn warning(key: &str, what: String, next: &str) -> Alert {
    Alert {
        key: key.to_owned(),
        level: Level::Warning,
        what,
        next: next.to_owned(),
        requests: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::{Level, alerts};
    use crate::{
        CacheMismatchNow, ClockJump, DriftNow, Latency, ModelNow, Now, ProbeNow, ServerNow, SinkNow,
    };

    #[track_caller]
    fn check(change: impl FnOnce(&mut Now), expect: &[(Level, &str)]) {
        let mut now = Now {
            server: ServerNow { open_requests_limit: 100, ..ServerNow::default() },
            models: vec![ModelNow { name: "m".to_owned(), ..ModelNow::default() }],
            ..Now::default()
        };
        change(&mut now);
        let found = alerts(&now);
        assert_eq!(found.len(), expect.len(), "{found:?}");
        for (alert, (level, what)) in found.iter().zip(expect) {
            assert!(alert.level == *level && alert.what.contains(what), "{alert:?}");
        }
    }

    #[test]
    fn a_tight_memory_limit_is_said_where_it_shortens_the_context() {
        let tight = |now: &mut Now| {
            now.server.memory_planned_bytes = 280_977_408;
            now.server.memory_ceiling_bytes = Some(281_018_368);
            let model = &mut now.models[0];
            (model.kv_blocks, model.kv_block_size, model.kv_bytes) = (9, 32, 6_635_520);
            model.max_model_len = 288;
        };
        let said = "m: the memory limit of 268 MiB leaves 6 MiB for the KV cache: 288 tokens";
        check(tight, &[(Level::Warning, said)]);
        let roomy = |now: &mut Now| {
            tight(now);
            now.server.memory_ceiling_bytes = Some(1 << 30);
        };
        check(roomy, &[]);
        let two_contexts = |now: &mut Now| {
            tight(now);
            now.models[0].kv_blocks = 18;
        };
        check(two_contexts, &[]);
    }

    #[test]
    fn a_sink_that_takes_no_alerts_is_an_alert() {
        let sink = |given_up, failing_since_ms| SinkNow {
            to: "hooks.example".to_owned(),
            waiting: 2,
            given_up,
            failing_since_ms,
            error: "connection refused".to_owned(),
        };
        let failing = |sink| {
            move |now: &mut Now| {
                now.at_ms = 100_000;
                now.server.failing_sinks = vec![sink];
            }
        };
        check(failing(sink(0, Some(50_000))), &[]);
        let waits = (Level::Warning, "2 alerts wait for hooks.example: connection refused");
        check(failing(sink(0, Some(10_000))), &[waits]);
        let lost = (Level::Warning, "Since start 3 alerts were not delivered to hooks.example");
        check(failing(sink(3, None)), &[lost]);
    }

    #[test]
    fn what_is_wrong_is_said_and_nothing_else() {
        let slow = Some(Latency { p50: 1.0, p99: 12_000.0, n: 4 });
        check(|_| {}, &[]);
        check(|now| now.models[0].finished_per_s = 9.0, &[]);
        check(|now| now.models[0].kv_usage = 1.0, &[]);
        check(
            |now| now.models[0].ttft_ms = slow,
            &[(Level::Warning, "m: first tokens take 12.0 s")],
        );
        check(|now| now.store.dropped = 3, &[(Level::Warning, "3 answers were not recorded")]);
        check(|now| now.store.slowest_commit_ms = 1_000, &[]);
        check(
            |now| now.store.slowest_commit_ms = 6_100,
            &[(Level::Warning, "a commit takes 6.1 s")],
        );
        let probe = |at, because: &[&str]| ProbeNow {
            name: "hello".to_owned(),
            model: "m".to_owned(),
            at,
            because: because.iter().map(|name| (*name).to_owned()).collect(),
            error: "it was erased".to_owned(),
        };
        check(
            |now| now.server.wrong_probes = vec![probe(Some(3), &["weights_digest"])],
            &[(
                Level::Warning,
                "m: the probe hello differs from token 3 on: weights_digest changed",
            )],
        );
        check(
            |now| now.server.wrong_probes = vec![probe(Some(3), &[])],
            &[(Level::Critical, "and nothing of the release does")],
        );
        check(
            |now| now.server.wrong_probes = vec![probe(None, &[])],
            &[(Level::Warning, "cannot be computed: it was erased")],
        );
        let drift = DriftNow {
            model: "m".to_owned(),
            signal: "refusal".to_owned(),
            how: "higher".to_owned(),
            began_ago: 120,
            examples: vec!["0190".to_owned()],
            ..DriftNow::default()
        };
        check(
            |now| now.server.drifts = vec![drift],
            &[(Level::Warning, "m: refusal is higher than usual, for 120 answers, such as 0190")],
        );
        let jump = |ago_s| Some(ClockJump { by_s: -86_400, ago_s, n: 1 });
        check(|now| now.server.clock_jump = jump(3_600), &[]);
        check(
            |now| now.server.clock_jump = jump(6),
            &[(Level::Warning, "jumped by -86400 s within")],
        );
        check(|now| now.server.open_requests = 99, &[(Level::Warning, "99 of 100")]);
        check(
            |now| {
                now.models[0].errors_per_s = 1.0;
                now.models[0].finished_per_s = 1.0;
                now.server.status = "died".to_owned();
            },
            &[(Level::Critical, "panicked"), (Level::Warning, "50 % of requests")],
        );
    }

    #[test]
    fn a_cached_answer_that_is_computed_otherwise_is_critical_and_names_its_requests() {
        let mismatch = |is_exact| CacheMismatchNow {
            told_to: "0191".to_owned(),
            computed_by: "0190".to_owned(),
            at: 4,
            n: 2,
            is_exact,
        };
        let said = "the last one from token 4 on: 0190 computed it, and 0191 was told it";
        for (is_exact, level) in [(true, Level::Critical), (false, Level::Warning)] {
            check(|now| now.server.cache_mismatch = Some(mismatch(is_exact)), &[(level, said)]);
        }
        let mut now = Now::default();
        now.server.cache_mismatch = Some(mismatch(true));
        assert_eq!(alerts(&now)[0].requests, ["0191", "0190"]);
    }
}
