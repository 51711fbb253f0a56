//! What answers take and cost, on the wire: of one answer, at `/metrics` and at `/ops/v1/cost`.

use lastmile::{EnergyMeter, Prices};
use lm_keys::{KeyLimits, Scope};
use lm_ops::StoreOptions;
use serde_json::Value;

use super::client::Reply;
use super::{CHAT, Server, add_key, folder_with_key, hello, wait_until};

/// The server of a folder whose answers have prices.
fn priced(folder: tempfile::TempDir) -> Server {
    let prices = Prices {
        currency: "EUR".to_owned(),
        per_million_input_tokens: 1e5,
        per_million_output_tokens: 1e6,
        ..Prices::default()
    };
    let options = StoreOptions { prices, ..StoreOptions::default() };
    Server::start_by(folder, "mean_tokens=40", options, |_, _, _| {})
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// All samples of a metric.
fn samples(page: &Reply, name: &str) -> Vec<f64> {
    let lines = page.body.lines().filter(|line| line.starts_with(&format!("{name}{{")));
    lines.map(|line| line.rsplit_once(' ').unwrap().1.parse().unwrap()).collect()
}

#[test]
fn the_sum_over_requests_is_what_was_measured() {
    let (folder, key) =
        folder_with_key(&[Scope::Infer, Scope::Ops, Scope::Metrics], KeyLimits::default());
    let other = add_key(&folder, "two", &[Scope::Infer], KeyLimits::default());
    let server = priced(folder);
    let answers: Vec<Value> = std::thread::scope(|scope| {
        let ask = |i: usize| {
            let (server, key) = (&server, if i.is_multiple_of(3) { &other } else { &key });
            scope.spawn(move || {
                let n = 1 + i % 3;
                let body = hello(&format!(r#""timings":true,"seed":{i},"n":{n}"#));
                let reply = server.post_with(key, CHAT, &body);
                assert_eq!(reply.status, 200, "{}", reply.body);
                reply.json()
            })
        };
        let asked: Vec<_> = (0..24).map(ask).collect();
        asked.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let has_joules = EnergyMeter::of_this_machine().is_some();
    let mut said = (0.0, 0.0);
    for answer in &answers {
        let (timings, usage) = (&answer["timings"], &answer["usage"]);
        assert_eq!(timings["joules"] == "unavailable", !has_joules, "{timings}");
        assert_eq!(timings["cost"]["currency"], "EUR");
        let cost = number(&timings["cost"]["amount"]);
        let expect = number(&usage["prompt_tokens"]) / 10.0 + number(&usage["completion_tokens"]);
        assert!((cost - expect).abs() < 1e-6, "{cost}, expected {expect}");
        assert!(number(&timings["e2e_ms"]) >= number(&timings["ttft_ms"]));
        said = (said.0 + number(&timings["cpu_seconds"]), said.1 + cost);
    }
    let near = |found: f64, expect: f64, what: &str| {
        assert!((found / expect - 1.0).abs() < 0.01, "{what}: {found}, expected {expect}");
    };
    let page = server.get_with(&key, "/metrics");
    let measured = samples(&page, "lastmile_cpu_seconds_total");
    near(said.0, measured[0], "answers");
    let counted = samples(&page, "lastmile_request_cpu_seconds_total");
    assert_eq!(counted.len(), 2, "one for each key");
    near(counted.iter().sum(), measured[0], "counters");
    near(samples(&page, "lastmile_request_cost_total").iter().sum(), said.1, "cost counters");
    let readable = format!("lastmile_energy_readable {}", u8::from(has_joules));
    assert!(page.body.contains(&readable));
    // What is unavailable has no number.
    assert_eq!(page.body.contains("joules_total"), has_joules);
    for by in ["key", "day", "model"] {
        let report = server.get_with(&key, &format!("/ops/v1/cost?by={by}&since=1d")).json();
        let lines = report["lines"].as_array().unwrap();
        let n_lines = if by == "key" { 2..3 } else { 1..3 };
        assert!(n_lines.contains(&lines.len()), "{report}");
        let sum: f64 = lines.iter().map(|line| number(&line["cpu_seconds"])).sum();
        near(sum, measured[0], by);
        near(number(&report["total"]["cpu_seconds"]), measured[0], by);
        near(number(&report["total"]["cost"]["EUR"]), said.1, by);
        assert_eq!(report["total"]["joules"] == "unavailable", !has_joules);
        assert_eq!(
            (&report["total"]["requests"], &report["total"]["answers"]),
            (&24.into(), &48.into())
        );
    }
    let reply = server.get_with(&other, "/ops/v1/cost");
    assert_eq!(reply.status, 403, "costs are for operators");
    for (query, param) in [("by=user", "by"), ("since=soon", "since"), ("sinse=1d", "sinse")] {
        let reply = server.get_with(&key, &format!("/ops/v1/cost?{query}"));
        assert_eq!((reply.status, &reply.json()["error"]["param"]), (400, &param.into()));
    }
}

#[test]
fn an_answer_says_what_it_took_only_when_asked_and_once_in_a_stream() {
    let server = Server::start("mode=echo");
    assert!(server.ask(CHAT, &hello("")).get("timings").is_none());
    let timings = server.ask(CHAT, &hello(r#""timings":true"#))["timings"].clone();
    assert!(timings["cpu_seconds"].is_f64() && timings.get("cost").is_none(), "{timings}");
    for options in ["", r#","stream_options":{"include_usage":true}"#] {
        let fields = format!(r#""timings":true,"stream":true{options}"#);
        let reply = server.post(CHAT, &hello(&fields));
        let with = reply.body.matches(r#""timings":{"#).count();
        assert_eq!(with, 1, "{}", reply.body);
        let last = reply.body.lines().rfind(|line| line.contains("chat.completion.chunk"));
        assert!(last.unwrap().contains(r#""timings":{"#), "{}", reply.body);
    }
    let reply = server.post(CHAT, &hello(r#""timings":"yes""#));
    assert_eq!((reply.status, &reply.json()["error"]["param"]), (400, &"timings".into()));
    wait_until("answers are counted", || {
        server
            .get("/metrics")
            .body
            .contains(r#"lastmile_request_cpu_seconds_total{model_name="placeholder",key="none"}"#)
    });
}
