//! Sinks beside a receiver that is not always well, and programs that do not always end.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};

use super::*;
use crate::now_ms;
use crate::sinks::signature::Secret;

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const PATIENCE: Duration = Duration::from_secs(20);

/// A request that a receiver got.
struct Got {
    headers: Vec<(String, String)>,
    body: String,
}

impl Got {
    fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(known, _)| known == name);
        &found.unwrap_or_else(|| panic!("no {name}")).1
    }
}

/// Answers as it is told, one after the other, and 200 from then on.
struct Hook {
    url: String,
    got: Receiver<Got>,
}

fn hook(answers: &[&str]) -> Hook {
    let answers: Vec<String> = answers.iter().map(|answer| (*answer).to_owned()).collect();
    let mut answers = answers.into_iter();
    hook_by(move |_| answers.next().unwrap_or_else(|| "200 OK".to_owned()))
}

/// Answers by what it is told.
fn hook_by(mut answer: impl FnMut(&str) -> String + Send + 'static) -> Hook {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/hook/s3cret-path", listener.local_addr().unwrap());
    let (sender, got) = channel();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            // The test may be over.
            if answer_one(connection.unwrap(), &mut answer, &sender).is_none() {
                return;
            }
        }
    });
    Hook { url, got }
}

fn answer_one(
    mut connection: TcpStream,
    answer: &mut impl FnMut(&str) -> String,
    sender: &Sender<Got>,
) -> Option<()> {
    let mut reader = BufReader::new(connection.try_clone().unwrap());
    let (mut line, mut headers) = (String::new(), Vec::new());
    reader.read_line(&mut line).unwrap();
    assert!(line.starts_with("POST /hook/s3cret-path "), "{line}");
    loop {
        line.clear();
        reader.read_line(&mut line).unwrap();
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.push((name.to_lowercase(), value.trim().to_owned()));
    }
    let length = headers.iter().find(|(name, _)| name == "content-length").unwrap();
    let mut body = vec![0; length.1.parse().unwrap()];
    reader.read_exact(&mut body).unwrap();
    let body = String::from_utf8(body).unwrap();
    let answer = answer(&body);
    let text = format!("HTTP/1.1 {answer}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    // Before the answer: who has that may count at once what came.
    sender.send(Got { headers, body }).ok()?;
    connection.write_all(text.as_bytes()).ok()
}

fn settings(webhooks: &[&str], commands: &[PathBuf]) -> SinkSettings {
    let webhooks: Vec<String> = webhooks.iter().map(|url| (*url).to_owned()).collect();
    let secret = (!webhooks.is_empty()).then_some(SECRET);
    let mut settings = SinkSettings::new(&webhooks, secret, commands).unwrap();
    settings.limits.backoff = Duration::from_millis(20);
    settings
}

fn message(n: u32) -> Message {
    Message::new("alert.opened", &serde_json::json!({ "n": n }), now_ms())
}

fn about(alert: &str, n: u32) -> Message {
    Message::new("alert.opened", &serde_json::json!({ "alert": alert, "n": n }), now_ms())
}

/// Waits until a sink's standing is as wanted.
#[track_caller]
fn until(sinks: &Sinks, wanted: impl Fn(&SinkStanding) -> bool) -> SinkStanding {
    let began = Instant::now();
    loop {
        let standing = sinks.standing().remove(0);
        if wanted(&standing) {
            return standing;
        }
        assert!(began.elapsed() < PATIENCE, "{standing:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn files(folder: &Path) -> usize {
    let is_file = |entry: std::fs::DirEntry| match entry.path() {
        path if path.is_dir() => files(&path),
        path => usize::from(path.extension().is_some_and(|extension| extension == "json")),
    };
    std::fs::read_dir(folder).unwrap().map(|entry| is_file(entry.unwrap())).sum()
}

#[test]
fn a_receiver_that_fails_twice_gets_each_message_once_in_order_and_signed() {
    let home = tempfile::tempdir().unwrap();
    let failing = ["500 Internal Server Error", "429 Too Many Requests"];
    let hook = hook(&failing);
    let sinks = Sinks::start(settings(&[&hook.url], &[]), home.path()).unwrap();
    let sent = [1, 2].map(|n| about("m/refusal/higher", n));
    sent.iter().for_each(|message| sinks.offer(message));
    let got: Vec<Got> = (0..4).map(|_| hook.got.recv_timeout(PATIENCE).unwrap()).collect();
    let secret = Secret::parse(SECRET).unwrap();
    for (got, expect) in got.iter().zip([0, 0, 0, 1]) {
        let expect = &sent[expect];
        assert_eq!((&got.body, got.header("webhook-id")), (&expect.body, expect.id.as_str()));
        let timestamp: i64 = got.header("webhook-timestamp").parse().unwrap();
        assert!((now_ms() / 1000 - timestamp).abs() < 30);
        let signature = secret.sign(&expect.id, timestamp, &got.body);
        assert_eq!(got.header("webhook-signature"), signature);
        assert_eq!(got.header("content-type"), "application/json");
    }
    let standing = until(&sinks, |one| one.delivered == 2);
    assert_eq!((standing.waiting, standing.given_up, standing.failing_since_ms), (0, 0, None));
    assert!(standing.to.starts_with("127.0.0.1:") && !format!("{standing:?}").contains("s3cret"));
    sinks.close(PATIENCE);
    assert_eq!(files(home.path()), 0);
}

#[test]
fn what_a_receiver_refuses_is_given_up_and_the_next_is_tried() {
    let home = tempfile::tempdir().unwrap();
    let hook = hook(&["400 Bad Request", "302 Found"]);
    let sinks = Sinks::start(settings(&[&hook.url], &[]), home.path()).unwrap();
    (1..=3).for_each(|n| sinks.offer(&message(n)));
    let standing = until(&sinks, |one| one.delivered == 1);
    assert_eq!((standing.waiting, standing.given_up), (0, 2));
    let why = standing.last_error.unwrap();
    assert!(why.contains("302") && why.contains("redirects are not followed"), "{why}");
    assert_eq!(hook.got.try_iter().count(), 3);
    assert_eq!(files(home.path()), 0);
}

#[test]
fn a_message_that_a_receiver_fails_on_keeps_no_other_alert_waiting_and_is_given_up() {
    let home = tempfile::tempdir().unwrap();
    let hook = hook_by(|body| {
        let is_poison = body.contains("m/poison/higher");
        let answer = if is_poison { "500 Internal Server Error" } else { "200 OK" };
        answer.to_owned()
    });
    let mut tight = settings(&[&hook.url], &[]);
    tight.limits.attempts = 2;
    let sinks = Sinks::start(tight, home.path()).unwrap();
    let poison = [1, 2].map(|n| about("m/poison/higher", n));
    poison.iter().for_each(|message| sinks.offer(message));
    let bodies = |last: &str| -> Vec<String> {
        let mut all = Vec::new();
        while all.last().is_none_or(|body: &String| !body.contains(last)) {
            all.push(hook.got.recv_timeout(PATIENCE).unwrap().body);
        }
        all
    };
    // Every other alert arrives; of the poisoned one only its oldest message is tried.
    let mut tried = Vec::new();
    for n in 3.. {
        sinks.offer(&about(&format!("m/{n}/higher"), n));
        tried.extend(bodies(&format!("m/{n}/higher")));
        if sinks.standing()[0].given_up == 2 {
            break;
        }
    }
    let standing = until(&sinks, |one| one.waiting == 0);
    assert_eq!((standing.given_up, standing.delivered > 2), (2, true), "{standing:?}");
    let of_poison: Vec<&String> = tried.iter().filter(|body| body.contains("poison")).collect();
    let turn = of_poison.iter().position(|body| *body == &poison[1].body).unwrap();
    assert!(turn >= 3, "the second is tried when the first is given up: {of_poison:?}");
    assert!(of_poison[turn..].iter().all(|body| *body == &poison[1].body), "{of_poison:?}");
    let why = sinks.standing()[0].last_error.clone().unwrap();
    assert!(why.contains("while others were taken") && why.contains("500"), "{why}");
    assert_eq!(files(home.path()), 0);
}

#[test]
fn what_the_disk_refuses_is_kept_in_memory_and_the_rest_on_the_disk() {
    let home = tempfile::tempdir().unwrap();
    let spool = spool::Spool::new(home.path().join("sink"));
    let all = [message(1), message(2), message(3)];
    // A folder stands where the second would lie.
    let place = home.path().join("sink").join(format!("{}.json", all[1].id));
    std::fs::create_dir_all(place.join("full")).unwrap();
    let kept = all.each_ref().map(|message| spool.put(message).is_ok());
    assert_eq!(kept, [true, false, true]);
    let names = std::fs::read_dir(home.path().join("sink")).unwrap();
    let half = names.filter(|name| name.as_ref().unwrap().path().extension().unwrap() == "next");
    assert_eq!(half.count(), 0, "nothing half is left");
    std::fs::remove_dir_all(&place).unwrap();
    // The same through a sink that nothing reaches: what could not be kept at first is kept in the end.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/hook/s3cret-path", silent.local_addr().unwrap());
    drop(silent);
    let mut slow = settings(&[&url], &[]);
    slow.limits.backoff = Duration::from_secs(600);
    let key = settings(&[&url], &[]).into_targets()[0].key();
    let folder = home.path().join("alerts").join("0").join(key);
    let blocked = folder.join(format!("{}.json", all[0].id));
    std::fs::create_dir_all(blocked.join("full")).unwrap();
    let sinks = Sinks::start(slow, &home.path().join("alerts")).unwrap();
    all.iter().for_each(|message| sinks.offer(message));
    let began = Instant::now();
    while files(&folder) < 2 {
        assert!(
            began.elapsed() < PATIENCE,
            "one that cannot be kept keeps the others off the disk"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    std::fs::remove_dir_all(&blocked).unwrap();
    sinks.close(PATIENCE);
    assert_eq!(files(&folder), 3);
}

#[test]
fn what_servers_that_are_gone_told_of_is_the_next_ones_to_end() {
    let home = tempfile::tempdir().unwrap();
    let kept = |slot: &str| home.path().join(slot).join(SERVER_ALERTS);
    for (slot, text) in [("0", "[1]"), ("1", "[2]")] {
        std::fs::create_dir_all(home.path().join(slot)).unwrap();
        std::fs::write(kept(slot), text).unwrap();
    }
    let hook = hook(&[]);
    let sinks = Sinks::start(settings(&[&hook.url], &[]), home.path()).unwrap();
    assert_eq!(sinks.kept(SERVER_ALERTS), ["[1]", "[2]"]);
    assert!(!kept("1").exists());
    sinks.fold(SERVER_ALERTS, "[1,2]").unwrap();
    assert_eq!(sinks.kept(SERVER_ALERTS), ["[1,2]"]);
    sinks.close(PATIENCE);
}

#[test]
fn what_was_not_delivered_is_delivered_by_the_next_server() {
    let home = tempfile::tempdir().unwrap();
    // Nobody listens where somebody will.
    let hook = hook(&[]);
    let dead = TcpListener::bind("127.0.0.1:0").unwrap();
    let dead_url = format!("http://{}/hook/s3cret-path", dead.local_addr().unwrap());
    drop(dead);
    let mut slow = settings(&[&dead_url], &[]);
    slow.limits.backoff = Duration::from_secs(600);
    let sinks = Sinks::start(slow, home.path()).unwrap();
    let sent = [message(1), message(2)];
    sent.iter().for_each(|message| sinks.offer(message));
    until(&sinks, |one| one.failing_since_ms.is_some());
    let began = Instant::now();
    sinks.close(Duration::from_secs(5));
    assert!(began.elapsed() < Duration::from_secs(5), "a wait is no reason to wait");
    assert_eq!(files(home.path()), 2);
    // A second server of the home while the first one still holds its folder: nothing is taken from it.
    let other = Sinks::start(settings(&[&dead_url], &[]), home.path()).unwrap();
    assert_eq!(other.standing()[0].waiting, 0);
    drop((sinks, other));
    // The address is part of where messages lie: they are moved as an operator would who moved the receiver.
    let key = |url: &str| settings(&[url], &[]).into_targets()[0].key();
    let folder = home.path().join("0");
    std::fs::rename(folder.join(key(&dead_url)), folder.join(key(&hook.url))).unwrap();
    let sinks = Sinks::start(settings(&[&hook.url], &[]), home.path()).unwrap();
    let ids: Vec<String> = (0..2)
        .map(|_| hook.got.recv_timeout(PATIENCE).unwrap().header("webhook-id").to_owned())
        .collect();
    assert_eq!(ids, sent.map(|message| message.id));
    until(&sinks, |one| one.delivered == 2);
}

#[test]
fn too_much_and_too_old_is_given_up_and_nobody_waits() {
    let home = tempfile::tempdir().unwrap();
    // It takes connections and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/hook/s3cret-path", silent.local_addr().unwrap());
    let mut tight = settings(&[&url], &[]);
    tight.limits.queue = 4;
    tight.limits.timeout = Duration::from_secs(3);
    let sinks = Sinks::start(tight, home.path()).unwrap();
    let began = Instant::now();
    (0..100).for_each(|n| sinks.offer(&message(n)));
    assert!(began.elapsed() < Duration::from_millis(2500), "{:?}", began.elapsed());
    let standing = until(&sinks, |one| one.waiting <= 4 && one.failing_since_ms.is_some());
    assert!(standing.given_up >= 92 && standing.delivered == 0, "{standing:?}");
    let mut old = message(7);
    old.made_ms -= 25 * 60 * 60 * 1000;
    let mut brief = settings(&[&hook(&[]).url], &[]);
    brief.limits.give_up = Duration::from_secs(60);
    let sinks = Sinks::start(brief, home.path()).unwrap();
    sinks.offer(&old);
    let standing = until(&sinks, |one| one.given_up == 1);
    assert!(standing.last_error.unwrap().contains("its time is over"));
}

#[cfg(unix)]
fn script(folder: &Path, name: &str, text: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let path = folder.join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
    path
}

#[cfg(unix)]
#[test]
fn a_program_gets_the_document_and_a_failure_is_told_by_its_exit_status() {
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("out.txt");
    let take =
        script(home.path(), "take", &format!("cat > {0}.next; mv {0}.next {0}", out.display()));
    let sinks = Sinks::start(settings(&[], &[take]), &home.path().join("alerts")).unwrap();
    let sent = message(1);
    sinks.offer(&sent);
    until(&sinks, |one| one.delivered == 1);
    assert_eq!(std::fs::read_to_string(out).unwrap(), sent.body);
    let deliver = |text: &str, timeout| {
        let path = script(home.path(), "other", text);
        let target = settings(&[], &[path]).into_targets().remove(0);
        target.deliver(&sent, timeout, &|| false)
    };
    let refused = deliver("exit 3", PATIENCE);
    assert!(matches!(&refused, Delivery::Refused { why } if why.contains('3')), "{refused:?}");
    let later = deliver("exit 75", PATIENCE);
    assert!(matches!(later, Delivery::Later(_)), "{later:?}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_program_that_does_not_end_is_killed_with_what_it_started() {
    let home = tempfile::tempdir().unwrap();
    let pid_file = home.path().join("pid");
    let text = format!("sleep 300 & echo $! > {}; wait", pid_file.display());
    let path = script(home.path(), "hang", &text);
    let target = settings(&[], &[path]).into_targets().remove(0);
    let began = Instant::now();
    let is_over = || pid_file.exists();
    let delivery = target.deliver(&message(1), PATIENCE, &is_over);
    assert!(
        matches!(&delivery, Delivery::Later(Later { why, .. }) if why.contains("killed")),
        "{delivery:?}"
    );
    assert!(began.elapsed() < PATIENCE);
    let delivery = target.deliver(&message(1), Duration::from_millis(400), &|| false);
    assert!(
        matches!(&delivery, Delivery::Later(Later { why, .. }) if why.contains("killed after 0.4 s"))
    );
    let pid: u32 = std::fs::read_to_string(&pid_file).unwrap().trim().parse().unwrap();
    let began = Instant::now();
    while is_running(pid) {
        assert!(began.elapsed() < PATIENCE, "its child lives on");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Neither gone nor dead and not yet waited for.
#[cfg(target_os = "linux")]
fn is_running(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

#[test]
fn what_cannot_be_a_sink_is_refused_by_its_option() {
    #[track_caller]
    fn check(url: &str, expect: &str) {
        let error = SinkSettings::new(&[url.to_owned()], None, &[]).unwrap_err().to_string();
        assert!(error.contains(expect) && !error.contains("s3cr3t"), "{error}");
    }
    for wrong in
        ["", "example.com", "ftp://example.com", "http://", "http://host:port", "http://a b"]
    {
        check(wrong, "--alert-webhook number 1");
    }
    check("https://user:s3cr3t@example.com/x", "must not hold a user or a password");
    let twice = ["http://a/x".to_owned(), "http://a/x".to_owned()];
    let error = SinkSettings::new(&twice, None, &[]).unwrap_err().to_string();
    assert_eq!(error, "--alert-webhook number 2 is given twice");
    assert!(SinkSettings::new(&[], Some(SECRET), &[]).is_err());
    let folder = tempfile::tempdir().unwrap();
    for path in [folder.path().to_owned(), folder.path().join("absent")] {
        let error = SinkSettings::new(&[], None, &[path]).unwrap_err().to_string();
        assert!(error.contains("--alert-command"), "{error}");
    }
}

#[test]
fn a_test_alert_goes_to_each_once_and_says_how_it_went() {
    let (good, bad) = (hook(&[]), hook(&["503 Service Unavailable"]));
    let tests = Sinks::test(settings(&[&good.url, &bad.url], &[]), now_ms());
    let went: Vec<bool> = tests.iter().map(|test| test.is_delivered).collect();
    assert_eq!(went, [true, false]);
    assert!(tests[1].error.as_deref().unwrap().contains("503"));
    let body: serde_json::Value =
        serde_json::from_str(&good.got.recv_timeout(PATIENCE).unwrap().body).unwrap();
    assert_eq!(body["type"], "alert.test");
    assert_eq!(bad.got.try_iter().count(), 1);
}
