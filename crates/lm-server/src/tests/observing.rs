//! Health, metrics, models and feedback.

use std::collections::BTreeMap;

use super::{CHAT, Server, hello, wait_until};

/// Samples by name and labels; panics at a line that is no exposition.
#[track_caller]
fn samples(page: &str) -> BTreeMap<String, f64> {
    let is_name = |name: &str| {
        let first = name.chars().next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
        first && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':')
    };
    let (mut samples, mut families) = (BTreeMap::new(), Vec::new());
    for line in page.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.splitn(3, ' ');
            let (kind, name) = (words.next().unwrap(), words.next().unwrap());
            assert!(matches!(kind, "HELP" | "TYPE") && is_name(name), "{line}");
            if kind == "TYPE" {
                assert!(!families.contains(&name), "{name} is given twice");
                assert!(matches!(words.next(), Some("counter" | "gauge" | "histogram")), "{line}");
                families.push(name);
            }
            continue;
        }
        let (key, value) = line.rsplit_once(' ').unwrap();
        let name = key.split('{').next().unwrap();
        let bare = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
        assert!(is_name(name), "{line}");
        assert!(families.contains(&name) || bare.is_some_and(|b| families.contains(&b)), "{line}");
        if let Some(labels) = key.strip_prefix(name).filter(|labels| !labels.is_empty()) {
            let inner = labels.strip_prefix('{').and_then(|l| l.strip_suffix('}')).unwrap();
            for label in inner.split("\",") {
                let (name, value) = label.split_once("=\"").unwrap();
                assert!(is_name(name) && !value.contains('\n'), "{line}");
            }
        }
        assert!(samples.insert(key.to_owned(), value.parse().unwrap()).is_none(), "{line}");
    }
    samples
}

#[test]
fn metrics_are_an_exposition_and_rise() {
    let server = Server::start_with("mode=echo", |_, model| {
        model.served_name = Some("my \"model\"".to_owned());
    });
    let before = samples(&server.get("/metrics").body);
    server.ask(CHAT, &hello(""));
    let label = |name: &str| {
        let engine = if name.starts_with("vllm:") { r#",engine="0""# } else { "" };
        format!(r#"{name}{{model_name="my \"model\""{engine}}}"#)
    };
    wait_until("the answer is stored and counted", || {
        let now = samples(&server.get("/metrics").body);
        let http = r#"lastmile_http_requests_total{route="/v1/chat/completions",status="200"}"#;
        now["lastmile_store_recorded_total"] >= 1.0 && now.get(http) == Some(&1.0)
    });
    // The engine says so after the client was told.
    server.wait_for_running(0, 0);
    let reply = server.get("/metrics");
    assert!(reply.header("content-type").unwrap().starts_with("text/plain; version=0.0.4"));
    let after = samples(&reply.body);
    for name in [
        "vllm:prompt_tokens_total",
        "vllm:generation_tokens_total",
        "vllm:time_to_first_token_seconds_count",
        "vllm:inter_token_latency_seconds_count",
        "vllm:request_time_per_output_token_seconds_count",
        "vllm:e2e_request_latency_seconds_count",
        "vllm:request_queue_time_seconds_count",
        "lastmile_generation_tokens_total",
    ] {
        let key = label(name);
        assert!(after[&key] > before[&key], "{key} did not rise");
    }
    let stop = r#"vllm:request_success_total{model_name="my \"model\"",engine="0",finished_reason="stop"}"#;
    assert_eq!((before[stop], after[stop]), (0.0, 1.0));
    for name in ["num_requests_running", "num_requests_waiting", "kv_cache_usage_perc"] {
        assert_eq!(after[&label(&format!("vllm:{name}"))], 0.0);
    }
    assert!(after.keys().any(|key| key.starts_with("vllm:cache_config_info{")));
    let attributes = "{gen_ai_operation_name=\"text_completion\",gen_ai_provider_name=\"lastmile\",\
                      gen_ai_request_model=\"my \\\"model\\\"\",gen_ai_response_model=\"my \\\"model\\\"\"}";
    for name in ["request_duration", "time_to_first_token", "time_per_output_token"] {
        let key = format!("gen_ai_server_{name}_seconds_count{attributes}");
        assert_eq!((before[&key], after[&key]), (0.0, 1.0), "{key}");
    }
    server.post(CHAT, &hello(r#""max_tokens":1000000"#));
    let errors = samples(&server.get("/metrics").body);
    let labels = r#"{model_name="my \"model\"",code="context_length_exceeded"}"#;
    assert_eq!(errors.get(&format!("lastmile_request_errors_total{labels}")), Some(&1.0));
}

#[test]
fn health_models_version_and_index() {
    let server = Server::start("mode=echo");
    let health = server.get("/health");
    let body = health.json();
    assert_eq!((health.status, body["status"].as_str()), (200, Some("ok")));
    assert!(body["heartbeat_age_ms"].as_u64().unwrap() < 5000);
    assert_eq!((body["running"].as_u64(), body["waiting"].as_u64()), (Some(0), Some(0)));
    assert_eq!(server.get("/health/live").status, 200);
    assert_eq!(server.get("/health/ready").status, 200);
    let list = server.get("/v1/models").json();
    assert_eq!(list["data"][0]["id"], "placeholder");
    assert_eq!(server.get("/v1/models/placeholder").json(), list["data"][0]);
    assert!(server.get("/version").json()["version"].is_string());
    let index = server.get("/").json();
    assert!(index["routes"].as_array().unwrap().iter().any(|route| route == "GET /metrics"));
}

#[test]
fn feedback_is_taken_by_the_id_of_the_response() {
    let server = Server::start("mode=echo");
    let id = server.ask(CHAT, &hello(""))["id"].as_str().unwrap().to_owned();
    let body = format!(r#"{{"request_id":"{id}","rating":"down","correction":"hi"}}"#);
    let reply = server.post("/v1/feedback", &body);
    assert_eq!(reply.status, 201, "{}", reply.body);
    assert_eq!(reply.json()["request_id"], id.trim_start_matches("chatcmpl-"));
    let page = server.get("/metrics").body;
    assert!(page.contains("\nlastmile_feedback_total 1\n"), "{page}");
    let unknown = r#"{"request_id":"0190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b","rating":true}"#;
    assert_eq!(server.post("/v1/feedback", unknown).status, 404);
    assert_eq!(server.post("/v1/feedback", "{").status, 400);
    assert_eq!(server.get("/v1/feedback").status, 405);
}

#[test]
fn the_run_is_noted_and_ends_with_the_server() {
    let mut server = Server::start("mode=echo");
    assert_eq!(server.get("/health/live").status, 200);
    server.stop();
    server.wait().unwrap();
    let path = server.folder.path().join("store.db");
    let reader = lm_ops::Reader::open(&path).unwrap();
    let report = lm_ops::Doctor::examine(&reader, std::time::SystemTime::now()).unwrap();
    assert_eq!(report.runs[0].run.address, server.address.to_string());
    assert!(report.runs[0].run.stopped_at_ms.is_some());
}
