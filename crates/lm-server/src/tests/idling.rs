//! What is computed when nobody asks, on a server that somebody always asks.

use std::io::Write;

use super::client::open;
use super::{CHAT, Server, hello, wait_until};

/// For how many seconds a probe waits for an idle slot.
fn overdue_s(server: &Server) -> f64 {
    let page = server.get("/metrics").body;
    let name = "lastmile_idle_overdue_seconds{work=\"probe\"} ";
    page.lines().find_map(|line| line.strip_prefix(name)).unwrap().parse().unwrap()
}

#[test]
fn a_server_that_is_never_idle_says_how_long_probes_wait() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().to_owned();
    let state_folder = home.clone();
    let server = Server::start_in(folder, "mode=random,delay_us=5000", |config, _, _| {
        config.state_folder = Some(state_folder);
    });
    assert_eq!(overdue_s(&server), 0.0);
    let body = hello(r#""stream":true,"ignore_eos":true"#);
    let mut stream = open(server.address, "POST", CHAT, body.len());
    stream.write_all(body.as_bytes()).unwrap();
    server.wait_for_running(1, 0);
    std::fs::create_dir_all(home.join("probes")).unwrap();
    // Who has time to read it finds that it is none.
    std::fs::write(home.join("probes/moon.json"), "{}").unwrap();
    wait_until("the probe waits", || overdue_s(&server) > 0.0);
    wait_until("the page is told", || {
        let now = server.get("/ops/v1/now").json();
        now["server"]["overdue"][0]["work"] == "probe"
    });
    drop(stream);
    wait_until("the probe had its turn", || overdue_s(&server) == 0.0);
}
