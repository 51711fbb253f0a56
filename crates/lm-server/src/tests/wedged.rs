//! An engine that stands still, and what the service manager hears.

use std::io::Write;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::client::open;
use super::{CHAT, Server, hello, wait_until};
use crate::ServiceManager;
use crate::watchdog::Condition;

#[test]
fn a_step_that_does_not_end_is_seen_written_down_once_and_forgiven() {
    let folder = tempfile::tempdir().unwrap();
    let state_folder = folder.path().to_owned();
    let placeholder = "mode=echo,hang_at_step=3,hang_us=12000000";
    let server = Server::start_in(folder, placeholder, |config, _, _| {
        config.state_folder = Some(state_folder);
    });
    let body = hello("");
    let mut stream = open(server.address, "POST", CHAT, body.len());
    let begun = Instant::now();
    stream.write_all(body.as_bytes()).unwrap();
    wait_until("the engine stands still", || server.get("/health/ready").status == 503);
    let took = begun.elapsed().as_secs_f64();
    assert!((4.5..11.0).contains(&took), "503 after {took:.1} s");
    let health = server.get("/health");
    assert_eq!((health.status, &health.json()["status"]), (503, &"stalled".into()));
    assert_eq!(server.get("/health/live").status, 200);
    let path = server.folder.path().join("last-stall.json");
    wait_until("the state is kept", || {
        std::fs::read_to_string(&path).is_ok_and(|t| t.ends_with('\n'))
    });
    let text = std::fs::read_to_string(&path).unwrap();
    let state: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&state["running"], &state["waiting"]), (&1.into(), &0.into()));
    assert_eq!(state["step"]["sequences"], 1);
    // One, and what was guessed of those after it.
    assert!(state["step"]["tokens"].as_u64() >= Some(1), "{state}");
    assert!(!text.contains("hello"), "prompts are nobody's business");
    wait_until("the engine goes on", || server.get("/health/ready").status == 200);
    let page = server.get("/metrics").body;
    assert!(page.contains("\nlastmile_engine_stalls_total 1\n"), "{page}");
}

#[test]
fn a_long_step_is_no_standstill() {
    let server = Server::start("mode=echo");
    let mut stats = server.runtime.stats();
    let mut check =
        |age_s: u64, tokens: u64, longest: (u64, u64), weights: u64, expect: Condition| {
            stats.heartbeat_age = Duration::from_secs(age_s);
            stats.step_tokens = tokens;
            stats.steps = u64::from(longest.0 > 0);
            stats.longest_step = Duration::from_secs(longest.0);
            stats.longest_step_tokens = longest.1;
            assert_eq!(Condition::of(&stats, weights), expect, "{age_s} s, {tokens} tokens");
        };
    let (going, stalled) = (Condition::Going, Condition::Stalled);
    // Idle.
    check(4, 0, (0, 0), 0, going);
    check(6, 0, (60, 1), 0, stalled);
    // The very first step of a large model: nothing was measured yet.
    check(20, 256, (0, 0), 1 << 30, going);
    check(599, 256, (0, 0), 1 << 40, going);
    check(601, 256, (0, 0), 1 << 40, stalled);
    check(6, 256, (0, 0), 0, stalled);
    // Five times the longest of late, and more for more tokens.
    check(14, 1, (3, 1), 0, going);
    check(16, 1, (3, 1), 0, stalled);
    check(16, 256, (3, 128), 0, going);
    check(31, 256, (3, 128), 0, stalled);
    check(16, 64, (3, 128), 0, stalled);
}

#[cfg(target_os = "linux")]
#[test]
fn the_service_manager_may_listen_at_an_abstract_name() {
    use std::os::linux::net::SocketAddrExt;
    let name = format!("lastmile-test-{}", std::process::id());
    let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
    let socket = UnixDatagram::bind_addr(&address).unwrap();
    ServiceManager::at(format!("@{name}").as_ref(), None).say_ready();
    let mut buffer = [0; 64];
    let n = socket.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..n], b"READY=1");
}

#[test]
fn the_service_manager_hears_of_a_whole_life() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let manager = ServiceManager::at(path.as_os_str(), Some(Duration::from_millis(200)));
    let mut server = Server::start_in(folder, "mode=echo", |_, _, access| {
        access.service_manager = Arc::new(manager);
    });
    let hear = || {
        let mut buffer = [0; 256];
        let n = socket.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..n]).into_owned()
    };
    let next = |but: &str| std::iter::repeat_with(hear).find(|said| said != but).unwrap();
    assert_eq!(next("WATCHDOG=1"), "READY=1");
    let alive = (0..5).map(|_| hear()).filter(|said| said == "WATCHDOG=1").count();
    assert_eq!(alive, 5);
    server.access.reload.notify_one();
    let reloading = next("WATCHDOG=1");
    assert!(reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{reloading}");
    assert_eq!(next("WATCHDOG=1"), "READY=1");
    server.stop();
    assert_eq!(next("WATCHDOG=1"), "STOPPING=1");
    server.wait().unwrap();
}
