//! What is kept of texts in each mode, and that what is erased is gone from the files.

use std::fs;

use lm_types::{TenantId, TokenId};

use super::*;
use crate::{Erase, Erasing, Implied, Reader, StoreStats, backup, stats, upgrade};

const SECRET: &str = "ann@example.org";

/// An answer with something personal in everything that people write.
fn personal(id: u128) -> RequestEvent {
    let mut event = event(id);
    let content = format!("write to {SECRET}");
    event.request.prompt = Prompt::Chat(vec![ChatMessage { role: Role::User, content }]);
    event.request.stop.stop_strings = vec![SECRET.to_owned()];
    event.request.subject = Some(SECRET.to_owned());
    event.output_text = format!("dear {SECRET}");
    event
}

/// All bytes of the store, its log included.
fn bytes(home: &Home) -> Vec<u8> {
    // The files of a server are its own: of those, all that is in its rows.
    if home.url.is_some() {
        return all_values(home);
    }
    let folder = fs::read_dir(home.path().parent().unwrap()).unwrap();
    folder.flat_map(|entry| fs::read(entry.unwrap().path()).unwrap()).collect()
}

fn all_values(home: &Home) -> Vec<u8> {
    let context = crate::error::ErrorContext::of_reader(&home.path());
    let connection = crate::schema::open_reader(&home.path(), &context).unwrap();
    let rows = connection.tables().unwrap().into_iter().flat_map(|table| {
        let sql = format!("SELECT * FROM {table}");
        let mut statement = connection.prepare_cached(&sql).unwrap();
        let rows = statement.query_map((), |row| Ok(format!("{:?}", row.values()))).unwrap();
        rows.map(Result::unwrap).collect::<Vec<_>>()
    });
    rows.collect::<String>().into_bytes()
}

fn holds(home: &Home, text: &str) -> bool {
    bytes(home).windows(text.len()).any(|window| window == text.as_bytes())
}

/// What a store of this mode holds of `personal` and of feedback on it.
fn kept(privacy: Privacy) -> (Home, crate::StoredRequest, Option<String>) {
    let home = Home::new();
    let store = home.open_with(|options| options.privacy = privacy);
    store.record(&personal(1));
    let failed = GenerateError::Template { message: format!("no {SECRET}") };
    store.record(&RequestEvent { choice: 1, outcome: Outcome::Failed(failed), ..personal(1) });
    let comment = Some(format!("{SECRET} is wrong"));
    store.feedback(Feedback { comment, ..thumb_up(1) }).unwrap();
    let request = store.reader().request(RequestId(1)).unwrap().unwrap();
    let comment = store.reader().feedback_for(RequestId(1)).unwrap().remove(0).comment;
    store.close().unwrap();
    (home, request, comment)
}

#[test]
pub(super) fn only_full_lets_personal_data_into_the_file() {
    for privacy in [Privacy::Off, Privacy::Hmac, Privacy::Redacted, Privacy::Full] {
        let (home, request, _) = kept(privacy);
        assert_eq!(holds(&home, SECRET), privacy == Privacy::Full, "{privacy:?}");
        assert_eq!(request.subject.as_deref() == Some(SECRET), privacy == Privacy::Full);
        assert!(request.subject.is_some(), "{privacy:?}: nobody could be erased");
        assert_eq!(request.attempts.len(), 2);
        assert_eq!(request.attempts[1].error_code.as_deref(), Some("chat_template_error"));
    }
}

/// It quotes nothing, and without it nobody would know of it.
#[test]
pub(super) fn what_a_server_says_by_itself_is_kept_in_every_mode() {
    for privacy in [Privacy::Off, Privacy::Hmac, Privacy::Redacted, Privacy::Full] {
        let home = Home::new();
        let store = home.open_with(|options| options.privacy = privacy);
        store.record(&personal(1));
        let comment = Some(Implied::Edited { n_kept: 3 }.to_string());
        store.feedback(Feedback { comment, ..thumb_up(1) }).unwrap();
        let kept = store.reader().feedback_for(RequestId(1)).unwrap().remove(0).comment;
        assert_eq!(kept.as_deref(), Some("edited after token 3"), "{privacy:?}");
        store.close().unwrap();
    }
}

#[test]
pub(super) fn each_mode_keeps_what_it_says() {
    let (_, request, comment) = kept(Privacy::Off);
    assert_eq!((request.prompt, request.prompt_mac, comment), (None, None, None));
    assert_eq!((&request.attempts[0].output_text, &request.attempts[0].output_mac), (&None, &None));

    let (_, request, comment) = kept(Privacy::Redacted);
    assert_eq!(request.prompt.unwrap()["messages"][0]["content"], "write to [an e-mail address]");
    assert_eq!(request.attempts[0].output_text.as_deref(), Some("dear [an e-mail address]"));
    assert_eq!(comment.as_deref(), Some("[an e-mail address] is wrong"));
    assert!(request.attempts[1].error_message.as_ref().unwrap().contains("[an e-mail address]"));

    let (_, request, comment) = kept(Privacy::Hmac);
    assert_eq!((request.prompt, comment, &request.attempts[1].error_message), (None, None, &None));
    assert!(request.prompt_mac.unwrap().starts_with("mac:"));
    assert!(request.attempts[0].output_mac.as_ref().unwrap().starts_with("mac:"));
}

#[test]
pub(super) fn keyed_hashes_tell_equal_texts_over_restarts_and_not_over_stores() {
    let mac = |home: &Home, id: u128, text: &str| {
        let store = home.open_with(|options| options.privacy = Privacy::Hmac);
        let mut event = event(id);
        event.request.prompt = Prompt::Text(text.to_owned());
        store.record(&event);
        store.flush().unwrap();
        store.reader().request(RequestId(id)).unwrap().unwrap().prompt_mac.unwrap()
    };
    let (home, other) = (Home::new(), Home::new());
    let first = mac(&home, 1, "a");
    assert_eq!(mac(&home, 2, "a"), first);
    assert_ne!(mac(&home, 3, "b"), first);
    assert_ne!(mac(&other, 1, "a"), first);
}

#[test]
pub(super) fn token_ids_cannot_be_redacted_and_are_withheld() {
    let home = Home::new();
    let store = home.open_with(|options| options.privacy = Privacy::Redacted);
    let tokens: Vec<TokenId> = vec![700_001, 700_002];
    let mut event = event(1);
    event.request.prompt = Prompt::Tokens(tokens);
    store.record(&event);
    store.flush().unwrap();
    assert_eq!(store.reader().request(RequestId(1)).unwrap().unwrap().prompt, None);
}

#[test]
pub(super) fn an_erased_subject_is_gone_from_every_table_and_from_the_files() {
    for privacy in [Privacy::Full, Privacy::Redacted, Privacy::Off] {
        let home = Home::new();
        let store = home.open_with(|options| options.privacy = privacy);
        // More than one chunk, among others' requests.
        for id in 0..1200 {
            let mut event = if id % 2 == 0 { personal(id) } else { event(id) };
            event.request.tenant = TenantId(u64::try_from(id % 3).unwrap());
            store.record(&event);
        }
        store.feedback(thumb_up(2)).unwrap();
        store.feedback(thumb_up(3)).unwrap();
        let erased = store.erase(Erase::Subject(SECRET.to_owned())).unwrap();
        assert_eq!((erased.request_ids.len(), erased.rows), (600, 601), "{privacy:?}");
        let counts = store.reader().counts().unwrap();
        assert_eq!((counts.requests, counts.attempts, counts.feedback), (600, 600, 1));
        assert_eq!(store.reader().request(RequestId(2)).unwrap(), None);
        assert!(!holds(&home, SECRET), "{privacy:?}");
        let again = store.erase(Erase::Subject(SECRET.to_owned())).unwrap();
        assert_eq!(again.request_ids.len(), 0);
        // Odd ids that 3 divides came without a key.
        assert_eq!(store.erase(Erase::Tenant(TenantId(0))).unwrap().request_ids.len(), 200);
        assert_eq!(store.erase(Erase::Tenant(TenantId(1))).unwrap().request_ids.len(), 200);
        let one = store.erase(Erase::Request(RequestId(5))).unwrap();
        assert_eq!(one.request_ids, [RequestId(5).to_string()]);
        assert_eq!(store.reader().counts().unwrap().requests, 199);
    }
}

#[test]
pub(super) fn who_was_kept_in_clear_is_found_under_another_mode() {
    let home = Home::new();
    let store = home.open();
    store.record(&personal(1));
    drop(store);
    let store = home.open_with(|options| options.privacy = Privacy::Hmac);
    store.record(&personal(2));
    assert_eq!(store.erase(Erase::Subject(SECRET.to_owned())).unwrap().request_ids.len(), 2);
}

#[test]
pub(super) fn a_backup_is_whole_private_and_never_replaces_a_file() {
    let home = Home::new();
    let store = home.open();
    record_all(&store, 0..300);
    store.flush().unwrap();
    let copy = home.folder.path().join("copy.db");
    let size_bytes = backup(&home.path(), &copy).unwrap();
    assert_eq!(fs::metadata(&copy).unwrap().len(), size_bytes);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(fs::metadata(&copy).unwrap().permissions().mode() & 0o777, 0o600);
    }
    // The store goes on meanwhile.
    record_all(&store, 300..301);
    assert_eq!(Reader::open(&copy).unwrap().counts().unwrap().attempts, 300);
    assert!(matches!(backup(&home.path(), &copy), Err(StoreError::Io { .. })));
    let restored = Store::open(&copy, StoreOptions::default()).unwrap();
    record_all(&restored, 400..401);
    restored.flush().unwrap();
    assert_eq!(restored.reader().counts().unwrap().attempts, 301);
    let found: StoreStats = stats(&copy).unwrap();
    assert_eq!((found.rows.attempts, found.prompts), (301, 301));
    assert!(found.size_bytes > 0 && found.oldest_ms <= found.newest_ms);
    assert_eq!(upgrade(&copy).unwrap().0, upgrade(&copy).unwrap().1);
    let missing = upgrade(&home.folder.path().join("none.db"));
    assert!(matches!(missing, Err(StoreError::Missing { .. })));
}

#[test]
pub(super) fn a_store_that_is_nearly_full_gives_up_its_oldest_texts_first() {
    let home = Home::new();
    let store = home.open_with(|options| options.max_bytes = 1 << 20);
    let large = |id: u128| {
        let mut event = event(id);
        event.arrived_at =
            SystemTime::now() - 2 * DAY + Duration::from_secs(u64::try_from(id).unwrap());
        event.output_text = "x".repeat(5000);
        event
    };
    let text = |id: u128| {
        let request = store.reader().request(RequestId(id)).unwrap().unwrap();
        request.attempts[0].output_text.clone()
    };
    let mut n_stored = 0;
    while n_stored < 400 && (n_stored == 0 || text(0).is_some()) {
        store.record(&large(n_stored));
        n_stored += 1;
        store.flush().unwrap();
        store.make_room().unwrap();
    }
    assert!((110..300).contains(&n_stored), "{n_stored}");
    assert!(text(99).is_none() && text(100).is_some() && text(n_stored - 1).is_some());
    // There is room again, and rows stay.
    for id in 1000..1020 {
        store.record(&large(id));
    }
    store.flush().unwrap();
    assert_eq!(store.counters().write_errors, 0);
    assert_eq!(store.reader().counts().unwrap().requests, u64::try_from(n_stored).unwrap() + 20);
}

#[test]
pub(super) fn requests_are_written_down_before_they_are_erased() {
    let (home, folder) = (Home::new(), tempfile::tempdir().unwrap());
    let list = folder.path().join("erasing");
    let erasing = Erasing::begin(&list).unwrap();
    let store = home.open_with(|options| options.erasing = Some(list.clone()));
    record_all(&store, 0..5);
    let ids: Vec<String> = (0..7).map(|id| RequestId(id).to_string()).collect();
    let known = || {
        let mut known: Vec<String> = store.reader().known(&ids).unwrap().into_iter().collect();
        known.sort();
        known
    };
    store.flush().unwrap();
    assert_eq!(known(), ids[..5]);
    // Where they cannot be written down, nothing is gone.
    fs::create_dir(&list).unwrap();
    let refused = store.erase(Erase::Request(RequestId(1))).unwrap_err().to_string();
    assert!(refused.contains("erasing cannot be written"), "{refused}");
    assert_eq!(known(), ids[..5]);
    fs::remove_dir(&list).unwrap();
    for id in [1, 3, 6] {
        store.erase(Erase::Request(RequestId(id))).unwrap();
    }
    assert_eq!(known(), [ids[0].clone(), ids[2].clone(), ids[4].clone()]);
    assert_eq!(erasing.left().unwrap(), [ids[1].clone(), ids[3].clone()]);
    erasing.end().unwrap();
    assert!(!list.exists());
}
