//! The operator's switches hold whatever becomes of rules.

use lm_store::{Store, StoreOptions};

use crate::{Overrides, Rule, now_ms};

#[test]
fn a_switch_waits_for_no_rule_and_needs_none() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("store.db"), StoreOptions::default()).unwrap();
    let file = folder.path().join("overrides.db");
    let overrides = Overrides::open(&file, &store).unwrap();
    let rule = "id = \"r\"\nowner = \"ana\"\nreason = \"a test\"\n[then]\naction = \"stop\"\ntext = \"No.\"";
    let rule = Rule::parse(rule).unwrap();
    let publish = overrides.act(|desk| {
        desk.add(&rule, "ana", now_ms())?;
        desk.publish("r", "ana", now_ms())
    });
    publish.unwrap();
    // As a newer version may write it.
    let sql = r#"UPDATE rule SET body = '{"id":"r","then":{"action":"fly"}}'"#;
    rusqlite::Connection::open(&file).unwrap().execute(sql, []).unwrap();
    assert!(overrides.act(|_| Ok(())).is_err(), "the rule cannot be read");
    // Who reads or compiles rules meanwhile is not waited for.
    let read = overrides.read(|_| {
        let killed = overrides.switch(|desk| desk.kill("/v1/completions", "", "ana", now_ms()));
        assert_eq!(killed.unwrap().killed, ["/v1/completions"]);
        assert!(overrides.policy().is_killed("/v1/completions"));
        Ok(())
    });
    read.unwrap();
    let undone = overrides.switch(|desk| desk.rollback("", "ana", now_ms())).unwrap();
    assert_eq!((undone.what.as_str(), undone.of_rules), ("kill /v1/completions", false));
    assert!(!overrides.policy().is_killed("/v1/completions"));
}
