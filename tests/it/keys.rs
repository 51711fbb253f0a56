//! `lastmile keys`, and what `serve` makes of keys and certificates before it serves.

use crate::program::Home;

#[test]
fn a_key_is_shown_once_and_listed_without_its_secret() {
    let home = Home::new();
    assert!(home.run(["keys", "list"]).stdout.contains("no keys"));
    assert_eq!(home.run(["keys", "list", "--json"]).json(), serde_json::json!([]));
    let limits = ["--requests-per-minute", "60", "--daily-tokens", "100000"];
    let create = ["keys", "create", "app", "--scopes", "infer,metrics", "--expires", "30d"];
    let made = home.run([&create[..], &limits, &["--json"]].concat()).json();
    let key = made["key"].as_str().unwrap();
    let id = made["id"].as_str().unwrap();
    assert!(key.starts_with(&format!("lm-{id}-")) && key.len() == 63, "{key}");
    assert_eq!(made["scopes"], serde_json::json!(["infer", "metrics"]));
    let day_s = made["expires_at"].as_u64().unwrap() - made["created_at"].as_u64().unwrap();
    assert_eq!(day_s, 30 * 86_400);
    let plain = home.run(["keys", "create", "plain"]);
    assert_eq!((plain.status, plain.stdout.lines().count()), (0, 1), "{plain:?}");
    let listed = home.run(["keys", "list", "--json"]);
    let list = listed.json();
    assert_eq!((&list[0]["name"], &list[0]["state"]), (&"app".into(), &"valid".into()));
    assert_eq!(list[0]["limits"]["requests_per_minute"], 60);
    let text = home.run(["keys", "list"]).stdout;
    assert!(text.contains(id) && text.contains("60 requests/min, 100000 tokens/day"), "{text}");
    for place in [listed.stdout, text] {
        assert!(!place.contains(&key[20..]) && !place.contains("hash"), "{place}");
    }
    let revoked = home.run(["keys", "revoke", id, "--json"]).json();
    assert_eq!(revoked["state"], "revoked");
    assert!(home.run(["keys", "list"]).stdout.contains("revoked"));
    let doctor = home.run(["doctor", "--json"]).json();
    let expect = serde_json::json!({
        "required": true, "valid": 1, "expired_or_revoked": 1, "error": null
    });
    assert_eq!(doctor["keys"], expect);
    assert!(home.run(["doctor"]).stdout.contains("keys     required; 1 valid"));
}

#[test]
fn what_keys_and_serve_refuse() {
    let home = Home::new();
    let check = |args: &[&str], status: i32, parts: &[&str]| home.run(args).refused(status, parts);
    check(&["keys"], 2, &["Usage"]);
    check(&["keys", "create", "a b"], 2, &["\"a b\""]);
    check(&["keys", "create", "a", "--scopes", "root"], 2, &["root", "infer"]);
    check(&["keys", "create", "a", "--expires", "soon"], 2, &["soon", "30d"]);
    check(&["keys", "create", "a", "--expires", "2020-01-01"], 2, &["2020-01-01", "future"]);
    check(&["keys", "create", "a", "--max-concurrent", "0"], 2, &["max_concurrent", "at least 1"]);
    check(&["keys", "revoke", "a"], 2, &["\"a\""]);
    let serve = ["serve", "--model", "placeholder", "--port", "0"];
    let serve = |more: &[&str], status: i32, parts: &[&str]| {
        check(&[&serve[..], more].concat(), status, parts);
    };
    serve(&["--host", "0.0.0.0"], 2, &["0.0.0.0", "keys create", "--insecure"]);
    serve(&["--api-key", "short"], 2, &["--api-key", "5 characters", "16"]);
    serve(&["--api-key", ""], 2, &["--api-key", "empty"]);
    serve(&["--allowed-host", "llm.example:443"], 2, &["--allowed-host", "llm.example:443"]);
    serve(&["--cors-origin", "https://chat.example/"], 2, &["--cors-origin", "without a path"]);
    serve(&["--cors-origin", "*"], 2, &["--cors-origin", "\"*\""]);
    serve(&["--tls-cert", "a.pem"], 2, &["--tls-key"]);
    serve(&["--tls-cert", "absent.pem", "--tls-key", "absent.pem"], 3, &["absent.pem"]);
    home.write("keys.json", "{}");
    serve(&[], 3, &["keys.json"]);
    check(&["keys", "list"], 3, &["keys.json"]);
    assert!(home.run(["doctor"]).stdout.contains("UNREADABLE"));
}
