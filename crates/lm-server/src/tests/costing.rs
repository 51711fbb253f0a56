//! What answers take and cost, on the wire: of one answer, at `/metrics` and at `/ops/v1/cost`.

use lastmile::{EnergyMeter, Prices};
use lm_keys::{KeyLimits, Scope};
use lm_ops::StoreOptions;
use serde_json::Value;

use super::client::Reply;
use super::{CHAT, Server, add_key, begin_within_a_day, folder_with_key, hello, wait_until};

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

#[test]
fn an_answer_ends_where_the_money_of_its_key_does() {
    begin_within_a_day();
    // A token of a prompt costs 0.1, one of an answer 1.
    let limits = KeyLimits { daily_cost: Some(60.0), ..KeyLimits::default() };
    let (folder, key) = folder_with_key(&[Scope::Infer, Scope::Metrics], limits);
    let server = priced(folder);
    let ask = |fields: &str| server.post_with(&key, CHAT, &hello(fields));
    let fields = r#""max_tokens":40,"ignore_eos":true,"timings":true"#;
    let whole = ask(fields);
    assert_eq!(whole.json()["choices"][0]["finish_reason"], "length");
    assert!(whole.json()["choices"][0].get("stop_reason").is_none(), "{}", whole.body);
    let first = number(&whole.json()["timings"]["cost"]["amount"]);
    let cut = ask(fields).json();
    let choice = &cut["choices"][0];
    let said = (choice["finish_reason"].as_str(), choice["stop_reason"].as_str());
    assert_eq!(said, (Some("length"), Some("budget")), "{cut}");
    assert!(!choice["message"]["content"].as_str().unwrap().is_empty(), "its text is kept");
    let second = number(&cut["timings"]["cost"]["amount"]);
    let spent = first + second;
    assert!((60.0..61.0).contains(&spent), "{first} and {second}: to the token");
    let page = server.get_with(&key, "/metrics");
    let used = samples(&page, "lastmile_key_budget_used");
    assert!((used[0] - spent).abs() < 1e-6, "{used:?}, {spent}");
    assert_eq!(samples(&page, "lastmile_key_budget_limit"), [60.0]);
    assert!(page.body.contains(r#"finished_reason="budget"} 1"#));
    let refused = ask(fields);
    assert_eq!(
        (refused.status, &refused.json()["error"]["code"]),
        (429, &"daily_cost_exceeded".into())
    );
    assert!(refused.body.contains("daily_cost is 60"), "{}", refused.body);
    assert!(refused.header("retry-after").is_some());
    // It holds over a restart.
    let server = priced(server.end());
    let refused = server.post_with(&key, CHAT, &hello(fields));
    assert_eq!(refused.status, 429, "{}", refused.body);
}

#[test]
fn a_stream_that_ends_with_the_budget_says_so_at_its_end() {
    begin_within_a_day();
    let limits = KeyLimits { daily_tokens: Some(100), ..KeyLimits::default() };
    let (folder, key) = folder_with_key(&[Scope::Infer], limits);
    let server = priced(folder);
    let text = r#"{"prompt":"Hello there","stream":true,"ignore_eos":true,"n":2,"max_tokens":200}"#;
    let reply = server.post_with(&key, "/v1/completions", text);
    let ends = reply.body.matches(r#""finish_reason":"length","stop_reason":"budget""#).count();
    assert_eq!(ends, 2, "{}", reply.body);
    assert!(reply.body.trim_end().ends_with("data: [DONE]"));
    let meter = &server.access.keys.authenticate(&key, crate::now()).unwrap().meter;
    wait_until("both are settled", || meter.n_open() == 0);
    let spent = meter.spent_today(crate::now()).tokens;
    assert!((100..=101).contains(&spent), "{spent}: a token for each answer more at most");
}
