//! Keys from the file to the door, on temporary folders and clocks of our own.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use crate::{
    Amounts, AuthError, KeyError, KeyFile, KeyLimits, KeyRing, LimitKind, Meter, NewKey, Now,
    Reservation, Scope,
};

/// A noon.
const NOON_S: u64 = 20_000 * 86_400 + 43_200;

fn at(seconds: f64) -> Now {
    Now { monotonic: Duration::from_secs_f64(seconds), unix_s: NOON_S + seconds as u64 }
}

fn new(name: &str) -> NewKey {
    let limits = KeyLimits::default();
    NewKey { name: name.to_owned(), scopes: vec![Scope::Infer], expires_at: None, limits }
}

fn file() -> (tempfile::TempDir, KeyFile) {
    let folder = tempfile::tempdir().unwrap();
    let file = KeyFile::new(folder.path().join("home").join("keys.json"));
    (folder, file)
}

fn ring_of(file: &KeyFile) -> KeyRing {
    let ring = KeyRing::default();
    ring.replace(file.read().unwrap(), |_| Some(Amounts::default()), at(0.0));
    ring
}

#[test]
fn a_key_opens_until_it_expires_or_is_revoked() {
    let (_folder, file) = file();
    assert_eq!(file.read().unwrap(), None);
    let (record, key) = file.create(new("one"), NOON_S).unwrap();
    let end = NewKey { expires_at: Some(NOON_S + 60), ..new("two") };
    let (_, short) = file.create(end, NOON_S).unwrap();
    assert!(key.starts_with(&format!("lm-{}-", record.id)) && key.len() == 3 + 16 + 1 + 43);
    let ring = ring_of(&file);
    assert_eq!((ring.is_required(), ring.n_valid(at(0.0))), (true, 2));
    assert_eq!(ring.authenticate(&key, at(0.0)).unwrap().record, record);
    assert!(ring.authenticate(&short, at(59.0)).is_ok());
    let expired = AuthError::Expired { at: NOON_S + 60 };
    assert_eq!(ring.authenticate(&short, at(60.0)).unwrap_err(), expired);
    file.revoke("one", NOON_S + 5).unwrap();
    ring.replace(file.read().unwrap(), |_| Some(Amounts::default()), at(5.0));
    let revoked = AuthError::Revoked { at: NOON_S + 5 };
    assert_eq!(ring.authenticate(&key, at(6.0)).unwrap_err(), revoked);
    assert_eq!(ring.n_valid(at(60.0)), 0);
    assert!(ring.is_required(), "revoked keys do not open the server");
    ring.replace(None, |_| Some(Amounts::default()), at(7.0));
    assert!(ring.is_required(), "nor does a file that is gone");
    assert_eq!(ring.authenticate(&key, at(8.0)).unwrap_err(), AuthError::Unknown);
}

#[test]
fn what_is_not_the_whole_key_opens_nothing() {
    let (_folder, file) = file();
    let (record, key) = file.create(new("one"), NOON_S).unwrap();
    let (_, other) = file.create(new("two"), NOON_S).unwrap();
    let ring = ring_of(&file);
    let id = format!("lm-{}-", record.id);
    let swapped = format!("{id}{}", &other[20..]);
    let short = &key[..key.len() - 1];
    let long = format!("{key}A");
    let shouted = key.to_uppercase();
    let hash = record.hash.as_str();
    for wrong in ["", "none", &id, &swapped, short, &long, &shouted, hash, &format!(" {key}")] {
        let found = ring.authenticate(wrong, at(0.0)).unwrap_err();
        assert_eq!(found, AuthError::Unknown, "{wrong}");
    }
    let text = std::fs::read_to_string(file.path()).unwrap();
    assert!(!text.contains(&key[20..]), "the secret is in the file");
}

#[test]
fn a_fixed_key_opens_everything_and_is_the_same_tenant_again() {
    let tenant = |key: &str| {
        let ring = KeyRing::default();
        assert!(!ring.is_required());
        ring.set_fixed(key, at(0.0)).unwrap();
        assert!(ring.is_required());
        assert_eq!(
            ring.authenticate("other-key-of-its-own", at(0.0)).unwrap_err(),
            AuthError::Unknown
        );
        let holder = ring.authenticate(key, at(0.0)).unwrap();
        assert!(holder.may(Scope::Infer) && holder.may(Scope::Ops) && holder.may(Scope::Metrics));
        holder.record.id
    };
    assert_eq!(tenant("0123456789abcdef"), tenant("0123456789abcdef"));
    assert_ne!(tenant("0123456789abcdef"), tenant("0123456789abcdeg"));
    let long = "x".repeat(257);
    for bad in ["", "0123456789abcde", "0123456789 abcdef", "0123456789abcdeé", &long] {
        let refused = KeyRing::default().set_fixed(bad, at(0.0)).unwrap_err();
        let is_empty = matches!(refused, KeyError::EmptyFixedKey);
        assert!(is_empty || matches!(refused, KeyError::BadFixedKey { .. }));
        assert_eq!(is_empty, bad.is_empty());
    }
}

#[test]
fn names_scopes_and_limits_are_checked() {
    let (_folder, file) = file();
    let long = "x".repeat(65);
    for name in ["", "a b", "a/b", "é", long.as_str()] {
        assert!(matches!(file.create(new(name), 0).unwrap_err(), KeyError::BadName { .. }));
    }
    let no_scope = NewKey { scopes: vec![], ..new("a") };
    assert_eq!(file.create(no_scope, 0).unwrap_err(), KeyError::NoScope);
    let limits = KeyLimits { daily_tokens: Some(0), ..KeyLimits::default() };
    let zero = file.create(NewKey { limits, ..new("a") }, 0).unwrap_err();
    assert_eq!(zero, KeyError::ZeroLimit { limit: "daily_tokens" });
    assert_eq!(file.read().unwrap(), None, "nothing was written");
    let (first, _) = file.create(new("a"), 0).unwrap();
    assert!(matches!(file.create(new("a"), 0).unwrap_err(), KeyError::NameTaken { .. }));
    assert_eq!(file.revoke(&first.id.to_string(), 1).unwrap().name, "a");
    assert!(matches!(file.revoke("a", 2).unwrap_err(), KeyError::NotFound { .. }));
    let (second, _) = file.create(new("a"), 3).unwrap();
    assert_ne!(first.id, second.id);
    assert_eq!(file.read().unwrap().unwrap().len(), 2);
}

#[test]
fn a_file_that_is_not_to_be_trusted_is_refused() {
    let (_folder, file) = file();
    file.create(new("a"), 0).unwrap();
    let text = std::fs::read_to_string(file.path()).unwrap();
    let check = |text: &str, part: &str| {
        std::fs::write(file.path(), text).unwrap();
        let error = file.read().unwrap_err();
        assert!(matches!(&error, KeyError::Corrupt { .. }) && error.to_string().contains(part));
    };
    check("", "EOF");
    check(&text[..text.len() / 2], "EOF");
    check(&text.replace("\"version\": 1", "\"version\": 2"), "version is 2");
    check(&text.replace("\"infer\"", "\"root\""), "root");
    check(&text.replace("\"limits\"", "\"limit\""), "limit");
    check(&text.replace("\"hash\": \"", "\"hash\": \"0"), "hash");
    std::fs::write(file.path(), &text).unwrap();
    assert!(file.read().is_ok());
}

#[cfg(unix)]
#[test]
fn the_file_is_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let (_folder, file) = file();
    let mode = |mode: u32| {
        std::fs::set_permissions(file.path(), PermissionsExt::from_mode(mode)).unwrap();
    };
    file.create(new("a"), 0).unwrap();
    assert_eq!(std::fs::metadata(file.path()).unwrap().permissions().mode() & 0o777, 0o600);
    mode(0o620);
    assert!(matches!(file.read().unwrap_err(), KeyError::WritableByOthers { mode: 0o620, .. }));
    mode(0o440);
    assert!(file.read().is_ok());
    let before = file.stamp();
    file.create(new("b"), 0).unwrap();
    assert_ne!(file.stamp(), before);
    assert_eq!(std::fs::metadata(file.path()).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn many_at_once_lose_nothing() {
    let (_folder, file) = file();
    std::thread::scope(|scope| {
        for i in 0..8 {
            let file = &file;
            scope.spawn(move || file.create(new(&format!("key-{i}")), 0).unwrap());
        }
    });
    assert_eq!(file.read().unwrap().unwrap().len(), 8);
}

fn tokens(tokens: u64) -> Amounts {
    Amounts { tokens, ..Amounts::default() }
}

/// An answer used so many tokens, for which nothing was set aside.
fn used(meter: &Meter, n_tokens: u64, now: Now) {
    meter.spend(Amounts::default(), tokens(n_tokens), &mut Reservation::default(), now);
    meter.charge(n_tokens, now);
}

fn meter(limits: KeyLimits) -> Meter {
    Meter::new(limits, Amounts::default(), at(0.0))
}

#[test]
fn requests_per_minute_say_truly_when_to_come_again() {
    let meter = meter(KeyLimits { requests_per_minute: Some(6), ..KeyLimits::default() });
    (0..6).for_each(|_| meter.begin(at(0.0)).unwrap());
    let over = meter.begin(at(1.0)).unwrap_err();
    assert_eq!((over.kind, over.limit), (LimitKind::RequestsPerMinute, 6.0));
    assert_eq!(over.retry_after, Duration::from_secs(9));
    assert!(meter.begin(at(9.9)).is_err());
    meter.begin(at(10.0)).unwrap();
    assert!(meter.begin(at(10.0)).is_err());
}

#[test]
fn tokens_are_set_aside_and_settled() {
    let meter = meter(KeyLimits { tokens_per_minute: Some(600), ..KeyLimits::default() });
    let held = meter.reserve(tokens(500), at(0.0)).unwrap();
    let over = meter.reserve(tokens(200), at(0.0)).unwrap_err();
    assert_eq!((over.kind, over.limit), (LimitKind::TokensPerMinute, 600.0));
    // The bucket has them in 10 s, but what is open gives more back when it ends.
    assert_eq!(over.retry_after, Duration::from_secs(1));
    // It used less than was set aside.
    meter.charge(100, at(0.0));
    meter.end(held, Duration::from_secs(1), at(0.0));
    let held = meter.reserve(tokens(500), at(0.0)).unwrap();
    // It used far more: the debt is paid before anything else is admitted.
    meter.charge(1200, at(0.0));
    meter.end(held, Duration::from_secs(1), at(0.0));
    let over = meter.reserve(tokens(1), at(0.0)).unwrap_err();
    assert!((70.0..70.2).contains(&over.retry_after.as_secs_f64()), "{:?}", over.retry_after);
    meter.reserve(tokens(1), Now { monotonic: over.retry_after, ..at(0.0) }).unwrap();
    // What is larger than the limit goes when nothing else was used.
    assert!(meter.reserve(tokens(10_000), at(100.0)).is_err());
    meter.reserve(tokens(10_000), at(1000.0)).unwrap();
}

#[test]
fn open_requests_are_counted() {
    let meter = meter(KeyLimits { max_concurrent: Some(2), ..KeyLimits::default() });
    meter.begin(at(0.0)).unwrap();
    meter.begin(at(0.0)).unwrap();
    let over = meter.begin(at(0.0)).unwrap_err();
    assert_eq!((over.kind, over.limit), (LimitKind::Concurrent, 2.0));
    assert!(over.retry_after >= Duration::from_millis(100));
    meter.end(Reservation::default(), Duration::from_secs(4), at(1.0));
    assert_eq!(meter.n_open(), 1);
    meter.begin(at(1.0)).unwrap();
}

#[test]
fn a_daily_budget_holds_over_a_restart_and_until_midnight() {
    let limits = KeyLimits { daily_tokens: Some(1000), ..KeyLimits::default() };
    let meter = Meter::new(limits, tokens(900), at(0.0));
    let held = meter.reserve(tokens(100), at(0.0)).unwrap();
    let over = meter.reserve(tokens(101), at(0.0)).unwrap_err();
    assert_eq!((over.kind, over.limit), (LimitKind::DailyTokens, 1000.0));
    assert_eq!(over.retry_after, Duration::from_secs(43_200));
    used(&meter, 50, at(1.0));
    meter.end(held, Duration::from_secs(1), at(1.0));
    assert_eq!(meter.spent_today(at(1.0)).tokens, 950);
    used(&meter, 50, at(2.0));
    assert_eq!(meter.begin(at(3.0)).unwrap_err().kind, LimitKind::DailyTokens);
    meter.begin(at(43_200.0)).unwrap();
    assert_eq!(meter.spent_today(at(43_200.0)).tokens, 0);
    // One that is larger than the whole budget goes on a fresh day, and no second one.
    meter.reserve(tokens(5000), at(43_201.0)).unwrap();
    assert!(meter.reserve(tokens(1), at(43_202.0)).is_err());
}

#[test]
fn what_was_used_stays_when_keys_are_read_again() {
    let (_folder, file) = file();
    let limits = KeyLimits { daily_tokens: Some(100), ..KeyLimits::default() };
    let (record, key) = file.create(NewKey { limits, ..new("a") }, NOON_S).unwrap();
    let ring = KeyRing::default();
    ring.replace(
        file.read().unwrap(),
        |tenant| Some(tokens(if tenant == record.id.tenant() { 60 } else { 0 })),
        at(0.0),
    );
    used(&ring.meter(record.id.tenant()).unwrap(), 30, at(0.0));
    file.create(new("b"), NOON_S).unwrap();
    ring.replace(file.read().unwrap(), |_| Some(Amounts::default()), at(0.0));
    let meter = &ring.authenticate(&key, at(0.0)).unwrap().meter;
    assert_eq!(meter.spent_today(at(0.0)).tokens, 90);
    // Other limits for the same key.
    let mut records = file.read().unwrap().unwrap();
    records[0].limits.daily_tokens = Some(95);
    ring.replace(Some(records), |_| Some(Amounts::default()), at(0.0));
    let meter = &ring.authenticate(&key, at(0.0)).unwrap().meter;
    assert_eq!(meter.reserve(tokens(6), at(0.0)).unwrap_err().limit, 95.0);
    meter.reserve(tokens(5), at(0.0)).unwrap();
}

#[test]
fn a_key_that_is_taken_out_of_the_file_and_put_back_goes_on_from_what_it_used() {
    let (_folder, file) = file();
    let limits = KeyLimits { daily_tokens: Some(100), ..KeyLimits::default() };
    let (record, key) = file.create(NewKey { limits, ..new("a") }, NOON_S).unwrap();
    file.create(new("b"), NOON_S).unwrap();
    let ring = ring_of(&file);
    let all = file.read().unwrap().unwrap();
    used(&ring.meter(record.id.tenant()).unwrap(), 70, at(0.0));
    let others = all.iter().filter(|other| other.id != record.id).cloned().collect();
    // What the store says is older than what was counted here.
    let nothing = |_: lm_types::TenantId| Some(Amounts::default());
    ring.replace(Some(others), nothing, at(1.0));
    assert_eq!(ring.authenticate(&key, at(1.0)).unwrap_err(), AuthError::Unknown);
    assert!(ring.is_revoked(record.id.tenant()));
    // An answer that ends now is charged all the same.
    used(&ring.meter(record.id.tenant()).unwrap(), 5, at(1.0));
    ring.replace(Some(all), nothing, at(2.0));
    let meter = &ring.authenticate(&key, at(2.0)).unwrap().meter;
    assert_eq!(meter.spent_today(at(2.0)).tokens, 75);
    assert!(meter.reserve(tokens(26), at(2.0)).is_err());
}

#[test]
fn what_cannot_be_read_is_not_taken_for_nothing() {
    let (_folder, file) = file();
    let limits = KeyLimits { daily_tokens: Some(100), ..KeyLimits::default() };
    let (record, key) = file.create(NewKey { limits, ..new("a") }, NOON_S).unwrap();
    let ring = KeyRing::default();
    ring.replace(file.read().unwrap(), |_| None, at(0.0));
    assert!(ring.has_unread(at(0.0)) && !ring.knows_day(record.id, at(0.0)));
    assert!(!ring.authenticate(&key, at(0.0)).unwrap().meter.knows_day(at(0.0)));
    ring.learn_days(|_| tokens(60), at(1.0));
    assert!(!ring.has_unread(at(1.0)) && ring.knows_day(record.id, at(1.0)));
    let meter = &ring.authenticate(&key, at(1.0)).unwrap().meter;
    assert!(meter.reserve(tokens(41), at(1.0)).is_err());
    // Without a daily budget nobody needs to know.
    let (other, unlimited) = file.create(new("b"), NOON_S).unwrap();
    ring.replace(file.read().unwrap(), |_| None, at(2.0));
    assert!(!ring.has_unread(at(2.0)) && !ring.knows_day(other.id, at(2.0)));
    assert!(ring.authenticate(&unlimited, at(2.0)).is_ok());
}

#[test]
fn what_is_only_set_aside_is_waited_for_as_long_as_requests_take() {
    let limits = KeyLimits { daily_tokens: Some(10_000), ..KeyLimits::default() };
    let daily = meter(limits);
    daily.begin(at(0.0)).unwrap();
    let held = daily.reserve(tokens(8000), at(0.0)).unwrap();
    daily.begin(at(0.0)).unwrap();
    let over = daily.reserve(tokens(8000), at(0.0)).unwrap_err();
    assert_eq!(over.kind, LimitKind::DailyTokens);
    assert_eq!(over.retry_after, Duration::from_secs(1));
    daily.end(held, Duration::from_millis(100), at(0.1));
    daily.reserve(tokens(8000), at(0.1)).unwrap();
    // All of it is set aside: nobody can begin, but not until tomorrow.
    let all = meter(limits);
    all.reserve(tokens(u64::MAX), at(0.0)).unwrap();
    assert_eq!(all.begin(at(0.0)).unwrap_err().retry_after, Duration::from_secs(1));
    // A request that is larger than the bucket sets the bucket aside, and no more.
    let minute = meter(KeyLimits { tokens_per_minute: Some(1000), ..KeyLimits::default() });
    let held = minute.reserve(tokens(8000), at(0.0)).unwrap();
    let over = minute.reserve(tokens(1000), at(0.0)).unwrap_err();
    assert_eq!(over.retry_after, Duration::from_secs(1));
    minute.end(held, Duration::from_secs(1), at(0.0));
    minute.charge(900, at(0.0));
    // What was truly used comes back with time only.
    let over = minute.reserve(tokens(1000), at(0.0)).unwrap_err();
    assert_eq!(over.retry_after, Duration::from_secs(54));
}

#[test]
fn a_request_refused_for_tokens_is_none_of_the_minute() {
    let (requests_per_minute, tokens_per_minute) = (Some(2), Some(100));
    let meter = meter(KeyLimits { requests_per_minute, tokens_per_minute, ..KeyLimits::default() });
    meter.begin(at(0.0)).unwrap();
    meter.reserve(tokens(100), at(0.0)).unwrap();
    for _ in 0..5 {
        meter.begin(at(0.0)).unwrap();
        assert_eq!(meter.reserve(tokens(1), at(0.0)).unwrap_err().kind, LimitKind::TokensPerMinute);
        meter.end(Reservation::default(), Duration::ZERO, at(0.0));
    }
    meter.begin(at(0.0)).unwrap();
    assert_eq!(meter.begin(at(0.0)).unwrap_err().kind, LimitKind::RequestsPerMinute);
}

#[test]
fn other_limits_forget_nothing() {
    let (_folder, file) = file();
    let limits = |tokens, open| KeyLimits {
        tokens_per_minute: Some(tokens),
        max_concurrent: Some(open),
        ..KeyLimits::default()
    };
    let first = NewKey { limits: limits(1000, 1), ..new("a") };
    let (_, key) = file.create(first, NOON_S).unwrap();
    let ring = ring_of(&file);
    let meter = || std::sync::Arc::clone(&ring.authenticate(&key, at(0.0)).unwrap().meter);
    let change = |limits| {
        let mut records = file.read().unwrap().unwrap();
        records[0].limits = limits;
        ring.replace(Some(records), |_| Some(Amounts::default()), at(0.0));
    };
    meter().begin(at(0.0)).unwrap();
    meter().charge(600, at(0.0));
    change(limits(1100, 1));
    assert_eq!(meter().begin(at(0.0)).unwrap_err().kind, LimitKind::Concurrent);
    change(limits(1100, 2));
    meter().begin(at(0.0)).unwrap();
    assert_eq!(meter().n_open(), 2);
    assert_eq!(meter().reserve(tokens(501), at(0.0)).unwrap_err().limit, 1100.0);
    meter().reserve(tokens(500), at(0.0)).unwrap();
    // A smaller limit makes no debt out of what was allowed.
    change(limits(60, 2));
    assert!(meter().reserve(tokens(1), at(0.0)).is_err());
    meter().reserve(tokens(1), at(1.0)).unwrap();
}

#[cfg(unix)]
#[test]
fn what_is_no_regular_file_is_refused_at_once() {
    let (_folder, file) = file();
    std::fs::create_dir_all(file.path().parent().unwrap()).unwrap();
    let made = std::process::Command::new("mkfifo").arg(file.path()).status().unwrap();
    assert!(made.success());
    let (said, heard) = std::sync::mpsc::channel();
    std::thread::spawn(move || said.send(file.read()));
    let read = heard.recv_timeout(Duration::from_secs(10)).expect("reading does not wait");
    assert!(read.unwrap_err().to_string().contains("not a regular file"));
}

#[cfg(unix)]
#[test]
fn other_permissions_are_noticed() {
    let (_folder, file) = file();
    file.create(new("a"), 0).unwrap();
    let before = file.stamp();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o640);
    std::fs::set_permissions(file.path(), mode).unwrap();
    assert_ne!(file.stamp(), before);
}
