//! The floors of ARCHITECTURE.md: who may depend on whom. An edge goes down only.

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{DependencyKind, Metadata};

use super::Finding;

/// Where a package stands in the house.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Floor {
    /// On the staircase; sees the floors below.
    F(u8),
    /// The scaffolding; sees `lm-types` and what is below it in the scaffolding.
    S(u8),
    /// Beside the house; sees everything, and nobody sees it.
    Outside,
}

const FLOORS: [(&str, Floor); 34] = [
    ("lm-types", Floor::F(0)),
    ("lm-kernels", Floor::F(0)),
    ("lm-keys", Floor::F(1)),
    ("lm-scheduler", Floor::F(1)),
    ("lm-sampler", Floor::F(1)),
    ("lm-tokenizer", Floor::F(1)),
    ("lm-backend", Floor::F(1)),
    ("lm-grammar", Floor::F(2)),
    ("lm-chat", Floor::F(2)),
    ("lm-models", Floor::F(2)),
    ("lm-sim", Floor::F(2)),
    ("lm-candle", Floor::F(3)),
    ("lm-cpu", Floor::F(3)),
    ("lm-engine", Floor::F(4)),
    ("lastmile", Floor::F(5)),
    ("lm-api", Floor::F(6)),
    ("lm-panel", Floor::F(6)),
    ("lm-bench", Floor::F(6)),
    ("lm-ops", Floor::F(7)),
    ("lm-server", Floor::F(8)),
    ("lm-cli", Floor::F(9)),
    ("lm-privacy", Floor::S(0)),
    ("lm-store", Floor::S(1)),
    ("lm-evidence", Floor::S(1)),
    ("lm-monitor", Floor::S(1)),
    ("lm-otel", Floor::S(1)),
    ("lm-data", Floor::S(2)),
    ("lm-recorder", Floor::S(2)),
    ("lm-experiment", Floor::S(3)),
    ("lm-feedback", Floor::S(3)),
    ("lm-remote", Floor::S(3)),
    ("lm-rollout", Floor::S(3)),
    ("lm-tests", Floor::Outside),
    ("xtask", Floor::Outside),
];

/// The only packages on the staircase that see the scaffolding.
const SEE_SCAFFOLDING: [&str; 2] = ["lm-ops", "lm-cli"];

/// Edges that go down and still must not be.
const BARRED: [(&str, &str); 2] = [("lm-engine", "lm-candle"), ("lm-engine", "lm-cpu")];

/// Dependencies from outside, and the only packages that may have them.
const RESERVED: [(&str, &[&str]); 10] = [
    ("anyhow", &["lm-cli", "lm-tests", "xtask"]),
    ("axum", &["lm-ops", "lm-server"]),
    ("candle-core", &["lm-candle"]),
    ("candle-nn", &["lm-candle"]),
    ("clap", &["lm-cli"]),
    ("object_store", &["lm-remote"]),
    ("rusqlite", &["lm-store", "lm-experiment", "lm-rollout"]),
    ("tokio", &["lm-bench", "lm-ops", "lm-remote", "lm-server", "lm-cli", "lm-store"]),
    ("tokio-postgres", &["lm-store"]),
    ("tracing-subscriber", &["lm-cli"]),
];

/// Packages that are plain data or pure logic: no dependency from outside but these.
const PURE: [(&str, &[&str]); 6] = [
    ("lm-types", &["thiserror"]),
    ("lm-scheduler", &["thiserror", "blake3"]),
    ("lm-sampler", &["thiserror"]),
    ("lm-backend", &["thiserror"]),
    ("lm-evidence", &["libm", "serde"]),
    ("lm-monitor", &["libm"]),
];

/// A package of the workspace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) name: String,
    /// Its manifest, relative to the root.
    pub(super) manifest: String,
    /// What it needs to be built.
    pub(super) needs: BTreeSet<String>,
    /// What its tests need besides.
    pub(super) tests_need: BTreeSet<String>,
}

pub(super) fn members(metadata: &Metadata) -> Vec<Member> {
    let mut members = Vec::new();
    for package in metadata.workspace_packages() {
        let manifest = package.manifest_path.strip_prefix(&metadata.workspace_root);
        let manifest = manifest.unwrap_or(&package.manifest_path).as_str().replace('\\', "/");
        let mut member = Member { name: package.name.to_string(), manifest, ..Member::default() };
        for dependency in &package.dependencies {
            let of_tests = dependency.kind == DependencyKind::Development;
            let set = if of_tests { &mut member.tests_need } else { &mut member.needs };
            set.insert(dependency.name.clone());
        }
        members.push(member);
    }
    members
}

pub(super) fn check(members: &[Member]) -> Vec<Finding> {
    let names: BTreeSet<&str> = members.iter().map(|member| member.name.as_str()).collect();
    let mut findings = Vec::new();
    for member in members {
        let mut find = |rule, fact| findings.push(Finding::new(&member.manifest, 0, rule, fact));
        let Some(floor) = floor_of(&member.name) else {
            find("floor", format!("{} has no floor: give it one in the table", member.name));
            continue;
        };
        for need in &member.needs {
            let broken = match floor_of(need).filter(|_| names.contains(need.as_str())) {
                Some(below) => inner_edge(&member.name, floor, need, below),
                None => outer_edge(&member.name, need),
            };
            if let Some(fact) = broken {
                find("floor", fact);
            }
        }
    }
    findings.extend(cycles(members));
    findings
}

fn floor_of(name: &str) -> Option<Floor> {
    FLOORS.iter().find(|(known, _)| *known == name).map(|(_, floor)| *floor)
}

fn inner_edge(name: &str, floor: Floor, need: &str, below: Floor) -> Option<String> {
    let barred = BARRED.contains(&(name, need));
    let goes_down = match (floor, below) {
        (Floor::Outside, below) => below != Floor::Outside,
        (_, Floor::Outside) => false,
        (Floor::F(from), Floor::F(to)) | (Floor::S(from), Floor::S(to)) => from > to,
        (Floor::F(_), Floor::S(_)) => SEE_SCAFFOLDING.contains(&name),
        (Floor::S(_), Floor::F(_)) => need == "lm-types",
    };
    (barred || !goes_down)
        .then(|| format!("{name} ({floor:?}) must not depend on {need} ({below:?})"))
}

fn outer_edge(name: &str, need: &str) -> Option<String> {
    if let Some((_, may)) = RESERVED.iter().find(|(reserved, _)| *reserved == need)
        && !may.contains(&name)
    {
        return Some(format!("{name} must not depend on {need}: only {} may", may.join(", ")));
    }
    let (_, may) = PURE.iter().find(|(pure, _)| *pure == name)?;
    (!may.contains(&need))
        .then(|| format!("{name} must not depend on {need}: only on {}", may.join(", ")))
}

/// Packages that need themselves, by way of their tests' dependencies at least once.
fn cycles(members: &[Member]) -> Vec<Finding> {
    let needs: BTreeMap<&str, &Member> =
        members.iter().map(|member| (member.name.as_str(), member)).collect();
    let mut findings = Vec::new();
    for member in members {
        let mut seen = BTreeSet::new();
        let mut ahead: Vec<&str> =
            member.needs.iter().chain(&member.tests_need).map(String::as_str).collect();
        while let Some(name) = ahead.pop() {
            if let Some(needed) = needs.get(name).filter(|_| seen.insert(name)) {
                ahead.extend(needed.needs.iter().chain(&needed.tests_need).map(String::as_str));
            }
        }
        if seen.contains(member.name.as_str()) {
            let fact = format!("{} needs itself, through a dependency", member.name);
            findings.push(Finding::new(&member.manifest, 0, "cycle", fact));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str, needs: &[&str], tests_need: &[&str]) -> Member {
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Member {
            name: name.to_owned(),
            manifest: format!("{name}/Cargo.toml"),
            needs: set(needs),
            tests_need: set(tests_need),
        }
    }

    /// Checks one edge in a workspace that has both ends.
    #[track_caller]
    fn check_edge(from: &str, to: &str, allowed: bool) {
        let found = check(&[member(from, &[to], &[]), member(to, &[], &[])]);
        assert_eq!(found.is_empty(), allowed, "{found:?}");
    }

    #[test]
    fn edges_go_down_only() {
        check_edge("lm-engine", "lm-scheduler", true);
        check_edge("lm-scheduler", "lm-engine", false);
        check_edge("lm-scheduler", "lm-sampler", false);
        check_edge("lm-engine", "lm-candle", false);
        check_edge("lastmile", "lm-candle", true);
        check_edge("lm-sim", "lm-backend", true);
        check_edge("lm-tests", "lm-cli", true);
        check_edge("lm-cli", "lm-tests", false);
        check_edge("lm-tests", "xtask", false);
    }

    #[test]
    fn the_scaffolding_is_seen_by_two_and_sees_the_types() {
        check_edge("lm-store", "lm-types", true);
        check_edge("lm-store", "lm-backend", false);
        check_edge("lm-data", "lm-store", true);
        check_edge("lm-store", "lm-data", false);
        check_edge("lm-ops", "lm-store", true);
        check_edge("lm-cli", "lm-data", true);
        check_edge("lm-server", "lm-store", false);
        check_edge("lastmile", "lm-store", false);
    }

    #[test]
    fn dependencies_from_outside_have_their_places() {
        let broken = |name, need| !check(&[member(name, &[need], &[])]).is_empty();
        assert!(broken("lm-engine", "candle-core"));
        assert!(!broken("lm-candle", "candle-core"));
        assert!(broken("lm-scheduler", "tokio"));
        assert!(broken("lm-types", "serde"));
        assert!(!broken("lm-data", "serde"));
        assert!(broken("lm-store", "anyhow"));
        assert!(broken("lm-new", "serde"));
    }

    #[test]
    fn dependencies_of_tests_are_free_but_for_cycles() {
        assert_eq!(check(&[member("lm-store", &[], &["lm-engine", "tokio"])]), []);
        let ring =
            [member("lm-types", &[], &["lm-sampler"]), member("lm-sampler", &["lm-types"], &[])];
        let found = check(&ring);
        assert!(found.iter().all(|finding| finding.rule == "cycle"), "{found:?}");
        assert_eq!(found.len(), 2);
    }
}
