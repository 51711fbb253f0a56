//! Overrides through their public face.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use std::sync::Arc;

use lm_types::{ChatMessage, GenerateRequest, OnHit, Prompt, ReadAs, RequestId, Role, TenantId};

use crate::{
    Asked, BreakerState, Breakers, Counted, Desk, ItemState, NewItem, Operator, Policy,
    RolloutError, Rule, Via, Way,
};

/// Some day, in Unix milliseconds.
const NOW: i64 = 1_790_000_000_000;
const DAY_MS: i64 = 86_400_000;

fn rule(more: &str) -> Rule {
    Rule::parse(&format!("owner = \"ana\"\nreason = \"a test\"\n{more}")).unwrap()
}

fn canned(id: &str, head: &str, text: &str) -> Rule {
    rule(&format!("id = {id:?}\n{head}\n[then]\naction = \"canned\"\ntext = {text:?}"))
}

fn request(text: &str) -> GenerateRequest {
    let message = ChatMessage { role: Role::User, content: text.to_owned() };
    let mut request = GenerateRequest::new(RequestId(1), Prompt::Chat(vec![message]));
    request.steering.route = "/v1/chat/completions";
    request
}

fn policy(rules: &[Rule]) -> Policy {
    Policy::compile(rules.iter().map(|rule| (rule, NOW + DAY_MS)), Operator::default()).unwrap()
}

#[track_caller]
fn check_way(rules: &[Rule], text: &str, asked: Option<Asked>, expect: Way) {
    let via = Via { model: "m", asked: asked.as_ref(), now_ms: NOW };
    assert_eq!(policy(rules).route(&request(text), via).unwrap().way, expect);
}

#[test]
fn operators_come_before_users_and_users_before_rules() {
    let say = |text: &str| Way::Canned(text.to_owned());
    let low = canned("low", "priority = 1", "low");
    let high = canned("high", "priority = 2", "high");
    let must = canned("must", "priority = -5\nmandatory = true", "must");
    let offer = canned("offer", "[when]\nasked = true", "offer");
    let asks = || Some(Asked::Canned("offer".to_owned()));
    check_way(&[], "x", None, Way::Model);
    check_way(&[low.clone(), high.clone()], "x", None, say("high"));
    check_way(&[low.clone(), high.clone(), offer.clone()], "x", asks(), say("offer"));
    check_way(&[low.clone(), offer.clone()], "x", Some(Asked::Bypass), Way::Model);
    check_way(&[low.clone(), must.clone(), offer.clone()], "x", asks(), say("must"));
    check_way(&[low, must], "x", Some(Asked::Bypass), say("must"));
    check_way(&[offer], "x", None, Way::Model);
}

#[test]
fn rules_are_about_what_they_say() {
    let holds = |when: &str, request: &GenerateRequest| {
        let rule = canned("r", &format!("[when]\n{when}"), "x");
        let via = Via { model: "m", asked: None, now_ms: NOW };
        policy(&[rule]).route(request, via).unwrap().way != Way::Model
    };
    let mut asks = request("Please send me the refund");
    asks.tenant = TenantId(0xab);
    asks.sampling.temperature = 0.7;
    for (when, expect) in [
        ("", true),
        ("routes = [\"/v1/chat/completions\"]", true),
        ("routes = [\"/v1/completions\"]", false),
        ("models = [\"n\", \"m\"]", true),
        ("models = [\"n\"]", false),
        ("tenants = [\"00000000000000ab\"]", true),
        ("tenants = [\"anonymous\"]", false),
        ("prompt = \"(?i)REFUND$\"", true),
        ("prompt = \"^refund\"", false),
        ("json = [{ path = \"$.temperature\", equals = 0.7 }]", true),
        ("json = [{ path = \"$.temperature\", equals = 0.8 }]", false),
        ("json = [{ path = \"$.messages[0].role\", equals = \"user\" }]", true),
        ("json = [{ path = \"$.messages[*].content\", matches = \"send\" }]", true),
        ("json = [{ path = \"$.messages[1].content\", matches = \"send\" }]", false),
        ("json = [{ path = \"$.route\", equals = \"/v1/chat/completions\" }]", true),
        ("json = [{ path = \"$.priority\", equals = \"batch\" }]", false),
        ("language = \"de\"", false),
    ] {
        assert_eq!(holds(when, &asks), expect, "{when}");
    }
    let german = "Ich weiß nicht, ob das Paket noch kommt, aber es ist wie immer zu spät und die \
                  Lieferung war nicht für uns";
    assert!(holds("language = \"de\"", &request(german)));
    assert!(!holds("prompt = \"x\"", &GenerateRequest::new(RequestId(1), Prompt::Tokens(vec![1]))));
}

#[test]
fn what_a_beginning_rules_out_is_said() {
    let prefix =
        "id = \"p\"\npriority = 2\nmandatory = true\n[then]\naction = \"prefix\"\ntext = \"So \"";
    let form = |more: &str| {
        rule(&format!(
            "id = \"f\"\n{more}\n[then]\naction = \"schema\"\nschema = {{ type = \"object\" }}"
        ))
    };
    let via = Via { model: "m", asked: None, now_ms: NOW };
    let route = |form: Rule| policy(&[rule(prefix), form]).route(&request("x"), via).unwrap();
    let dropped = route(form(""));
    assert_eq!((dropped.way, dropped.opening.as_str(), dropped.schema), (Way::Model, "So ", None));
    assert_eq!(dropped.notes, ["rule f was not applied: the answer's beginning is given"]);
    let refused = route(form("mandatory = true"));
    assert!(matches!(&refused.way, Way::Stop(text) if text.contains("rule f must be applied")));
}

#[test]
fn a_pin_comes_before_fallbacks() {
    let chain = rule(
        "id = \"chain\"\nmandatory = true\n[then]\naction = \"fallback\"\nmodels = [\"other\"]",
    );
    let low = canned("low", "priority = -1", "low");
    let route = |rules: &[&Rule], pin: Option<&str>, asked: Option<&Asked>| {
        let operator = Operator { pin: pin.map(str::to_owned), ..Operator::default() };
        let rules = rules.iter().map(|rule| (*rule, NOW + DAY_MS));
        let via = Via { model: "m", asked, now_ms: NOW };
        Policy::compile(rules, operator).unwrap().route(&request("x"), via).unwrap()
    };
    assert!(matches!(route(&[&chain], None, None).way, Way::Fallback { .. }));
    for asked in [None, Some(&Asked::Fallback)] {
        let pinned = route(&[&chain], Some("m"), asked);
        assert_eq!((pinned.way, pinned.by, pinned.hits.len()), (Way::Model, None, 0));
        assert!(pinned.notes.iter().all(|note| note.ends_with("a model is pinned")));
        assert_eq!(pinned.notes.len(), 1 + usize::from(asked.is_some()));
    }
    // What is not about who computes holds as ever.
    let pinned = route(&[&chain, &low], Some("m"), None);
    assert_eq!(pinned.way, Way::Canned("low".to_owned()));
}

#[test]
fn an_edit_is_of_the_request_that_was_answered() {
    let route = |rule: &Rule, answer: &str, change: &str| {
        let mut edit = GenerateRequest::new(RequestId(2), Prompt::Tokens(vec![1]));
        edit.steering.route = "/v1/responses/{id}/edit";
        edit.steering.read_as = Some(Arc::new(ReadAs {
            prompt: request("send me the refund").prompt,
            changes: vec![change.to_owned()],
            route: "/v1/chat/completions".to_owned(),
            answer: answer.to_owned(),
        }));
        let via = Via { model: "m", asked: None, now_ms: NOW };
        policy(std::slice::from_ref(rule)).route(&edit, via).unwrap()
    };
    for (when, expect) in [
        ("prompt = \"refund\"", true),
        ("prompt = \"mine\"", true),
        ("prompt = \"yours\"", false),
        ("routes = [\"/v1/chat/completions\"]", true),
        ("routes = [\"/v1/responses/{id}/edit\"]", true),
        ("routes = [\"/v1/completions\"]", false),
        ("json = [{ path = \"$.messages[0].content\", matches = \"refund\" }]", true),
    ] {
        let rule = canned("r", &format!("[when]\n{when}"), "x");
        assert_eq!(route(&rule, "", "mine").way != Way::Model, expect, "{when}");
    }
    let prefix = |more: &str| {
        rule(&format!("id = \"p\"\n{more}\n[then]\naction = \"prefix\"\ntext = \"Dear all\""))
    };
    assert_eq!(route(&prefix(""), "", "").opening, "Dear all");
    let kept = route(&prefix("mandatory = true"), "Dear all, so", "so");
    assert_eq!((kept.opening.as_str(), kept.way), ("", Way::Model));
    let begun = route(&prefix(""), "Hi", "Hi");
    assert_eq!((begun.opening.as_str(), begun.notes.len()), ("", 1));
    assert!(matches!(route(&prefix("mandatory = true"), "Hi", "Hi").way, Way::Stop(_)));
}

#[test]
fn a_phrase_may_begin_in_what_answers_go_on_with() {
    let ban = rule("id = \"b\"\n[then]\naction = \"ban\"\nphrases = [\"secret\"]");
    let via = Via { model: "m", asked: None, now_ms: NOW };
    let policy = policy(&[ban]);
    let route = |request: &GenerateRequest| policy.route(request, via).unwrap();
    let mut asks = request("tell the sec");
    assert_eq!(route(&asks).before, "", "an answer of its own");
    asks.dialog.continues_last = true;
    assert_eq!(route(&asks).before, "sec");
    asks.prompt = Prompt::Text("a secret sec".to_owned());
    assert_eq!((route(&asks).before.as_str(), route(&asks).way), ("sec", Way::Model));
    asks.report.tokens = true;
    let told = route(&asks);
    assert!(matches!(told.way, Way::Stop(_)) && told.hits.len() == 1, "{told:?}");
}

#[test]
fn phrases_add_up_and_a_rule_ends() {
    let ban = |id: &str, phrase: &str| {
        rule(&format!(
            "id = {id:?}\n[then]\naction = \"ban\"\nphrases = [{phrase:?}]\non_hit = \"resubmit\""
        ))
    };
    let rules = [ban("a", "one"), ban("b", "two")];
    let ends = [NOW + 1, NOW + 2];
    let policy = Policy::compile(rules.iter().zip(ends), Operator::default()).unwrap();
    let n_bans = |now_ms| {
        let via = Via { model: "m", asked: None, now_ms };
        policy.route(&request("x"), via).unwrap().output.map_or(0, |output| {
            assert!(output.bans().iter().all(|ban| ban.then == OnHit::Resubmit));
            output.bans().len()
        })
    };
    assert_eq!([NOW, NOW + 1, NOW + 2].map(n_bans), [2, 1, 0]);
    // What the same rules forbid is put together once.
    let output = |now_ms| {
        let via = Via { model: "m", asked: None, now_ms };
        policy.route(&request("x"), via).unwrap().output.unwrap()
    };
    let (both, again, one) = (output(NOW), output(NOW), output(NOW + 1));
    assert!(Arc::ptr_eq(&both, &again) && !Arc::ptr_eq(&both, &one));
    assert_eq!((one.bans().len(), output(NOW).bans().len()), (1, 2));
}

fn desk(folder: &tempfile::TempDir) -> Desk {
    Desk::open(&folder.path().join("overrides.db")).unwrap()
}

#[test]
fn drafts_do_nothing_and_what_is_done_can_be_taken_back() {
    let folder = tempfile::tempdir().unwrap();
    let (mut desk, other) = (desk(&folder), desk(&folder));
    let seen = other.generation().unwrap();
    let way = |desk: &Desk| {
        let via = Via { model: "m", asked: None, now_ms: NOW };
        desk.policy().unwrap().route(&request("x"), via).unwrap().way
    };
    let added = desk.add(&canned("r", "", "hello"), "ana", NOW).unwrap();
    assert_eq!((added.state(NOW), added.expires_at_ms), ("draft", NOW + 14 * DAY_MS));
    assert_eq!(way(&desk), Way::Model);
    assert_ne!(other.generation().unwrap(), seen, "another handle sees that something changed");
    assert!(matches!(
        desk.add(&canned("r", "", "x"), "ana", NOW),
        Err(RolloutError::WrongState { .. })
    ));
    desk.publish("r", "ben", NOW).unwrap();
    assert_eq!(way(&other), Way::Canned("hello".to_owned()));
    assert!(matches!(desk.publish("r", "ben", NOW), Err(RolloutError::WrongState { .. })));
    desk.kill("/v1/completions", "it leaks", "cem", NOW).unwrap();
    desk.remove("r", "ana", NOW).unwrap();
    assert_eq!(way(&desk), Way::Model);
    assert_eq!(desk.rollback("a mistake", "dia", NOW).unwrap().what, "remove r");
    assert_eq!(way(&desk), Way::Canned("hello".to_owned()));
    assert!(desk.policy().unwrap().is_killed("/v1/completions"));
    assert_eq!(desk.rollback("", "dia", NOW).unwrap().what, "kill /v1/completions");
    assert_eq!(desk.rollback("", "dia", NOW).unwrap().what, "publish r");
    assert_eq!(way(&desk), Way::Model);
    assert_eq!(desk.rollback("", "dia", NOW).unwrap().what, "add r");
    assert!(desk.rollback("", "dia", NOW).is_err());
    let details: Vec<_> = desk.audit(100).unwrap().into_iter().map(|e| e.detail).collect();
    assert_eq!(details[3], "remove r: a mistake");
    assert!(details[5].ends_with(r#""reason":"it leaks"}"#), "{details:?}");
    assert!(desk.kill("/v1/completions", &"x".repeat(1001), "cem", NOW).is_err());
    let said: Vec<_> = desk.audit(100).unwrap().into_iter().map(|e| (e.who, e.action)).collect();
    assert_eq!(said.len(), 8);
    assert_eq!(said[7], ("ana".to_owned(), "add".to_owned()));
    for sql in ["DELETE FROM audit", "UPDATE audit SET who = 'nobody'"] {
        let refused = desk.connection.execute(sql, []).unwrap_err().to_string();
        assert!(refused.contains("append-only"), "{refused}");
    }
}

#[test]
fn who_switches_at_once_takes_nothing_back() {
    let folder = tempfile::tempdir().unwrap();
    let desks = [desk(&folder), desk(&folder), desk(&folder)];
    std::thread::scope(|scope| {
        for (n, mut desk) in desks.into_iter().enumerate() {
            scope.spawn(move || {
                for i in 0..15 {
                    desk.kill(&format!("/v{n}/{i}"), "", "ana", NOW).unwrap();
                    desk.pin(&format!("m{n}"), "", "ana", NOW).unwrap();
                }
            });
        }
    });
    let mut after = desk(&folder);
    let operator = after.operator().unwrap();
    assert_eq!(operator.killed.len(), 45, "{operator:?}");
    assert!(operator.pin.is_some());
    // Each change is taken back once, although two do it.
    let mut other = desk(&folder);
    std::thread::scope(|scope| {
        for desk in [&mut after, &mut other] {
            scope.spawn(move || (0..45).for_each(|_| drop(desk.rollback("", "ben", NOW).unwrap())));
        }
    });
    assert_eq!(desk(&folder).operator().unwrap(), Operator::default());
}

#[test]
fn a_rule_that_cannot_be_read_is_in_the_way_of_no_switch() {
    let folder = tempfile::tempdir().unwrap();
    let mut desk = desk(&folder);
    desk.add(&canned("r", "", "hello"), "ana", NOW).unwrap();
    let sql = r#"UPDATE rule SET body = '{"id":"r","then":{"action":"fly"}}'"#;
    desk.connection.execute(sql, []).unwrap();
    assert!(desk.rules().is_err());
    assert_eq!(desk.kill("/v1/completions", "", "ana", NOW).unwrap().killed.len(), 1);
    assert_eq!(desk.pin("m", "", "ana", NOW).unwrap().pin.as_deref(), Some("m"));
    let undone = desk.rollback("", "ana", NOW).unwrap();
    assert_eq!((undone.what.as_str(), undone.of_rules), ("pin m", false));
    let operator = desk.operator().unwrap();
    assert_eq!((operator.killed.len(), operator.pin), (1, None));
    // A switch leaves rules where they are, and no copy of them.
    let count = "SELECT count(*) FROM audit WHERE before LIKE '%rules%'";
    let n: i64 = desk.connection.query_row(count, [], |row| row.get(0)).unwrap();
    assert_eq!(n, 1, "that of the rule that was added");
}

#[test]
fn an_answer_counts_once_for_a_rule() {
    let folder = tempfile::tempdir().unwrap();
    let mut desk = desk(&folder);
    let hit = |rule: &str, request: &str, choice, at_ms| Counted {
        rule: rule.to_owned(),
        request_id: request.to_owned(),
        choice,
        action: "ban_stop",
        at_ms,
    };
    desk.count(&[hit("a", "1", 0, NOW), hit("a", "1", 0, NOW), hit("a", "1", 1, NOW)]).unwrap();
    desk.count(&[hit("b", "1", 0, NOW + 5)]).unwrap();
    assert_eq!(
        desk.hits(0).unwrap().into_iter().collect::<Vec<_>>(),
        [("a".to_owned(), 2), ("b".to_owned(), 1)]
    );
    assert_eq!(desk.hits(NOW + 1).unwrap().len(), 1);
}

#[test]
fn an_item_is_answered_once_or_late() {
    let folder = tempfile::tempdir().unwrap();
    let mut desk = desk(&folder);
    let item = |id: &str, deadline_ms| NewItem {
        id: id.to_owned(),
        tenant: None,
        rule: "r".to_owned(),
        prompt: serde_json::json!({ "text": "why?" }),
        deadline_ms,
        canned: "later".to_owned(),
    };
    desk.enqueue(&[item("1", NOW + 10)], NOW).unwrap();
    desk.enqueue(&[item("2", NOW + 5)], NOW).unwrap();
    let ids: Vec<_> = desk.waiting(NOW).unwrap().into_iter().map(|item| item.id).collect();
    assert_eq!(ids, ["2", "1"], "what is due first comes first");
    let answered = desk.answer("1", "because", "ana", NOW + 1).unwrap();
    assert_eq!(
        (answered.state, answered.answer.as_deref()),
        (ItemState::Answered, Some("because"))
    );
    assert_eq!(answered.prompt, None, "what is answered is not kept");
    assert!(desk.answer("1", "no", "ben", NOW + 2).is_err());
    let late = desk.item("2", NOW + 5).unwrap();
    assert_eq!((late.state, late.answer.as_deref()), (ItemState::Late, Some("later")));
    assert!(desk.answer("2", "now", "ana", NOW + 5).is_err());
    assert!(matches!(desk.item("3", NOW), Err(RolloutError::Unknown { .. })));
    // One key may have a tenth of the places, and what does not fit whole leaves nothing.
    let of_key = |n: u64, from: u64| {
        let item =
            |i| NewItem { tenant: Some("k".to_owned()), ..item(&format!("k{i}"), NOW + 100) };
        (from..from + n).map(item).collect::<Vec<_>>()
    };
    desk.enqueue(&of_key(99, 0), NOW + 20).unwrap();
    let full = desk.enqueue(&of_key(2, 99), NOW + 20);
    assert!(matches!(full, Err(RolloutError::QueueFull { waiting: 99, limit: 100 })), "{full:?}");
    desk.enqueue(&of_key(1, 99), NOW + 20).unwrap();
    for i in 0..900 {
        desk.enqueue(&[item(&format!("n{i}"), NOW + 100)], NOW + 20).unwrap();
    }
    let full = desk.enqueue(&[item("over", NOW + 100)], NOW + 20);
    assert!(matches!(full, Err(RolloutError::QueueFull { waiting: 1000, .. })), "{full:?}");
}

#[test]
fn a_breaker_opens_on_errors_and_one_request_tries() {
    let mut breakers = Breakers::default();
    for i in 0..4 {
        breakers.note("m", true, NOW + i);
        breakers.note("m", false, NOW + i);
    }
    assert!(breakers.may_ask("m", NOW + 4));
    breakers.note("m", true, NOW + 5);
    assert!(!breakers.may_ask("m", NOW + 6), "5 of 9 failed");
    assert_eq!(breakers.states()["m"], BreakerState::Open);
    assert!(breakers.may_ask("other", NOW + 6));
    // Who was asked before it opened changes nothing.
    breakers.note("m", false, NOW + 7);
    assert!(!breakers.may_ask("m", NOW + 8));
    assert!(breakers.may_ask("m", NOW + 40_000));
    assert!(!breakers.may_ask("m", NOW + 40_001), "one tries at a time");
    breakers.note("m", true, NOW + 40_100);
    assert!(!breakers.may_ask("m", NOW + 50_000));
    assert!(breakers.may_ask("m", NOW + 80_000));
    breakers.note("m", false, NOW + 80_100);
    assert_eq!(breakers.states()["m"], BreakerState::Closed);
    // Errors of long ago say nothing.
    for i in 0..10 {
        breakers.note("slow", true, NOW + i * 61_000);
    }
    assert!(breakers.may_ask("slow", NOW + 700_000));
}
