//! Mutation tests of the scheduler: bugs are planted in a copy, one at a time, and each must be
//! caught by the simulation, or by the scheduler's own tests.

mod plan;
mod process;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use plan::{Judge, MUTANTS, Mutant};
use process::{Outcome, run_bounded};

/// Folders that are copied; enough to build the simulation.
const FOLDERS: [&str; 6] = [
    "crates/lm-types",
    "kernels",
    "crates/lm-backend",
    "crates/lm-sampler",
    "crates/lm-scheduler",
    "sim",
];

/// Builds fast, and still finishes its seeds in well under a second.
const PROFILE: &str = "
[profile.dev]
opt-level = 1
debug = false
overflow-checks = true
";
const N_SEEDS: &str = "200";
const BUILD_PATIENCE: Duration = Duration::from_secs(600);
const RUN_PATIENCE: Duration = Duration::from_secs(60);

/// Plants every bug of the plan, and prints who caught it. True when each was caught.
pub(crate) fn run(root: &Path) -> anyhow::Result<bool> {
    let begin = Instant::now();
    let copy = Copy { root: root.to_owned(), folder: root.join("target/mutants/src") };
    copy.make()?;
    for judge in [Judge::Simulation, Judge::UnitTests] {
        if let Verdict::Caught(message) = copy.judge(judge)? {
            bail!("{judge:?} fails without any mutation: {message}");
        }
    }
    let mut n_caught = 0;
    for mutant in &MUTANTS {
        let verdict = copy.with(mutant, || copy.judge(mutant.judge))?;
        let Mutant { name, judge, .. } = mutant;
        match verdict {
            Verdict::Caught(message) => {
                n_caught += 1;
                println!("{name:<36} {judge:?}: {message}");
            }
            Verdict::Survived => println!("{name:<36} NOT CAUGHT by {judge:?}"),
        }
    }
    let (n, seconds) = (MUTANTS.len(), begin.elapsed().as_secs());
    println!("mutants: {n_caught} of {n} caught in {seconds} s");
    Ok(n_caught == n)
}

enum Verdict {
    /// With what the judge said.
    Caught(String),
    Survived,
}

/// A small workspace of its own, with a target folder of its own.
struct Copy {
    root: PathBuf,
    folder: PathBuf,
}

impl Copy {
    fn make(&self) -> anyhow::Result<()> {
        for name in FOLDERS {
            let target = self.folder.join(name);
            if target.exists() {
                std::fs::remove_dir_all(&target)?;
            }
            copy_folder(&self.root.join(name), &target)?;
        }
        let manifest = std::fs::read_to_string(self.root.join("Cargo.toml"))?;
        write(&self.folder.join("Cargo.toml"), &(reduced(&manifest)? + PROFILE))?;
        std::fs::copy(self.root.join("Cargo.lock"), self.folder.join("Cargo.lock"))?;
        Ok(())
    }

    /// Runs `act` while the bug is in the copy.
    fn with<T>(
        &self,
        mutant: &Mutant,
        act: impl FnOnce() -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let path = self.folder.join(mutant.file);
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("{}: cannot read {}", mutant.name, mutant.file))?;
        write(&path, &mutant.apply(&text)?)?;
        let outcome = act().with_context(|| mutant.name.to_owned());
        write(&path, &text)?;
        outcome
    }

    fn judge(&self, judge: Judge) -> anyhow::Result<Verdict> {
        let build: &[&str] = match judge {
            Judge::Simulation => &["build", "--quiet", "--package", "lm-sim"],
            Judge::UnitTests => &["test", "--quiet", "--package", "lm-scheduler", "--no-run"],
        };
        let built = run_bounded(&self.folder, "cargo", &with_target(build), BUILD_PATIENCE)?;
        if !built.success {
            bail!("the copy does not compile:\n{}", built.output);
        }
        let ran = match judge {
            Judge::Simulation => {
                let program = self.folder.join("../target/debug/lm-sim");
                let program = program.to_str().context("the target folder is UTF-8")?;
                run_bounded(&self.folder, program, &["--seeds", N_SEEDS], RUN_PATIENCE)?
            }
            Judge::UnitTests => {
                let test = ["test", "--quiet", "--package", "lm-scheduler"];
                run_bounded(&self.folder, "cargo", &with_target(&test), RUN_PATIENCE)?
            }
        };
        Ok(if ran.success { Verdict::Survived } else { Verdict::Caught(said(&ran)) })
    }
}

/// Everything was fetched when lastmile itself was built.
fn with_target<'a>(args: &[&'a str]) -> Vec<&'a str> {
    let (verb, rest) = args.split_at(1);
    [verb, &["--offline", "--target-dir", "../target"], rest].concat()
}

/// The manifest of a workspace of the copied folders alone.
fn reduced(manifest: &str) -> anyhow::Result<String> {
    let mut table: toml::Table = manifest.parse().context("Cargo.toml")?;
    let sections: Vec<String> = table.keys().filter(|key| *key != "workspace").cloned().collect();
    for section in sections {
        table.remove(&section);
    }
    let workspace = table.get_mut("workspace").and_then(toml::Value::as_table_mut);
    let workspace = workspace.context("Cargo.toml has no workspace")?;
    workspace.remove("default-members");
    let members = FOLDERS.iter().map(|name| toml::Value::from(*name)).collect();
    workspace.insert("members".to_owned(), toml::Value::Array(members));
    let dependencies = workspace.get_mut("dependencies").and_then(toml::Value::as_table_mut);
    let is_kept = |value: &toml::Value| {
        let path = value.get("path").and_then(toml::Value::as_str);
        path.is_none_or(|path| FOLDERS.contains(&path))
    };
    dependencies.context("Cargo.toml has no dependencies")?.retain(|_, value| is_kept(value));
    Ok(toml::to_string(&table)?)
}

/// The one line of a failed run that says why.
fn said(ran: &Outcome) -> String {
    let lines = ran.output.lines().map(str::trim).filter(|line| !line.is_empty());
    let lines: Vec<&str> = lines.collect();
    let failure = lines.iter().find(|line| line.starts_with("sim: seed")).copied();
    let panic = lines.iter().position(|line| line.contains("panicked at"));
    let line = match (panic, failure.or(lines.last().copied())) {
        (Some(at), _) => {
            // thread 'NAME' (ID) panicked at FILE:LINE:COLUMN:
            let thread = lines[at].split('\'').nth(1).unwrap_or("a thread");
            format!("{thread} panicked: {}", lines.get(at + 1).unwrap_or(&""))
        }
        (None, Some(line)) => line.split("; again with").next().unwrap_or(line).to_owned(),
        (None, None) => "it failed without a word".to_owned(),
    };
    line.chars().take(110).collect()
}

fn copy_folder(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(to)?;
    let entries = std::fs::read_dir(from);
    for entry in entries.with_context(|| format!("cannot list {}", from.display()))? {
        let entry = entry?;
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            copy_folder(&from, &to)?;
        } else {
            std::fs::copy(&from, &to)?;
        }
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn the_copy_is_a_workspace_of_its_own() {
        let manifest = "[workspace]\nmembers = [\"crates/*\"]\ndefault-members = [\"a\"]\n\
            [workspace.dependencies]\nlm-types = { path = \"crates/lm-types\" }\n\
            lm-cli = { path = \"crates/lm-cli\" }\nserde = \"1\"\n[profile.release]\nopt-level = 3\n";
        let table: toml::Table = reduced(manifest).unwrap().parse().unwrap();
        assert_eq!(table["workspace"]["members"].as_array().unwrap().len(), FOLDERS.len());
        let dependencies = table["workspace"]["dependencies"].as_table().unwrap();
        assert_eq!(dependencies.keys().collect::<Vec<_>>(), ["lm-types", "serde"]);
        assert!(!table.contains_key("profile"));
    }

    #[test]
    fn the_reason_is_one_line() {
        let check = |output: &str, expect: &str| {
            let ran = Outcome { success: false, output: output.to_owned() };
            assert_eq!(said(&ran), expect);
        };
        let panic = "thread 'main' (7) panicked at a.rs:1:1:\nonly held\nsim: seed 1 panicked";
        check(panic, "main panicked: only held");
        let failure = "sim: seed 3 step 4: blocks leaked";
        check(&format!("note\n{failure}; again with: cargo sim --seed 3"), failure);
        check("", "it failed without a word");
    }
}
