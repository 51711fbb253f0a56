//! Dependencies that are built in several versions: each but one is in `deny.toml`, with a reason.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};
use cargo_metadata::semver::{Version, VersionReq};

use super::Finding;

const DENY: &str = "deny.toml";

/// A version that may be there besides another one: `{ crate = "name:req", reason = "..." }`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Skip {
    name: String,
    versions: VersionReq,
}

pub(super) fn run(root: &Path) -> anyhow::Result<Vec<Finding>> {
    let Ok(text) = std::fs::read_to_string(root.join(DENY)) else { return Ok(Vec::new()) };
    // Not from `cargo metadata`: its graph holds optional dependencies that nobody switched on.
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .current_dir(root)
        .args(["tree", "--locked", "--workspace", "--edges", "normal,build"])
        .args(["--prefix", "none", "--format", "{p}"])
        .output()
        .context("cargo tree")?;
    if !output.status.success() {
        bail!("cargo tree: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(check(&built(&String::from_utf8_lossy(&output.stdout))?, &skips(&text)?))
}

/// Every version that a build for this machine compiles, tests left out: `name v1.2.3 ...` a line.
fn built(tree: &str) -> anyhow::Result<BTreeMap<String, BTreeSet<Version>>> {
    let mut versions: BTreeMap<String, BTreeSet<Version>> = BTreeMap::new();
    for line in tree.lines().filter(|line| !line.is_empty()) {
        let mut words = line.split(' ');
        let (name, version) = (words.next(), words.next().and_then(|word| word.strip_prefix('v')));
        let (Some(name), Some(version)) = (name, version) else {
            bail!("cargo tree says {line:?}, where \"name v1.2.3\" was expected");
        };
        versions.entry(name.to_owned()).or_default().insert(version.parse()?);
    }
    Ok(versions)
}

fn skips(deny: &str) -> anyhow::Result<Vec<Skip>> {
    let table: toml::Table = deny.parse().context(DENY)?;
    let skip = table.get("bans").and_then(|bans| bans.get("skip")).and_then(|skip| skip.as_array());
    let mut skips = Vec::new();
    for entry in skip.context("deny.toml has no bans.skip")? {
        let field = |name: &str| entry.get(name).and_then(|value| value.as_str());
        let (Some(spec), Some(reason)) = (field("crate"), field("reason")) else {
            bail!("{DENY}: {entry} in bans.skip must have a crate and a reason");
        };
        let (name, versions) = spec
            .split_once(':')
            .with_context(|| format!("{DENY}: crate is {spec:?}, but must be \"name:version\""))?;
        if reason.is_empty() {
            bail!("{DENY}: the reason of {spec:?} is empty");
        }
        let versions = versions.parse().with_context(|| format!("{DENY}: crate {spec:?}"))?;
        skips.push(Skip { name: name.to_owned(), versions });
    }
    Ok(skips)
}

fn check(built: &BTreeMap<String, BTreeSet<Version>>, skips: &[Skip]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (name, versions) in built.iter().filter(|(_, versions)| versions.len() > 1) {
        let skipped = |version: &&Version| {
            skips.iter().any(|skip| skip.name == *name && skip.versions.matches(version))
        };
        if versions.iter().filter(|version| !skipped(version)).count() > 1 {
            let all: Vec<_> = versions.iter().map(ToString::to_string).collect();
            let fact = format!("{name} is built as {}", all.join(", "));
            findings.push(Finding::new("Cargo.lock", 0, "duplicate", fact));
        }
    }
    for skip in skips {
        let is_needed = built.get(&skip.name).is_some_and(|versions| {
            versions.len() > 1 && versions.iter().any(|version| skip.versions.matches(version))
        });
        if !is_needed {
            let fact = format!("{}:{} is skipped and no duplicate", skip.name, skip.versions);
            findings.push(Finding::new(DENY, 0, "stale-skip", fact));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[track_caller]
    fn check(versions: &[&str], skipped: &[&str], expect: &[&str]) {
        let tree: String = versions.iter().map(|v| format!("a v{v} (*)\nb v1.0.0\n")).collect();
        let built = built(&tree).unwrap();
        let entry = |spec: &&str| format!("{{ crate = \"{spec}\", reason = \"r\" }},\n");
        let entries: String = skipped.iter().map(entry).collect();
        let skips = skips(&format!("[bans]\nskip = [\n{entries}]\n")).unwrap();
        let found = super::check(&built, &skips);
        let found: Vec<_> = found.iter().map(|finding| finding.fact.as_str()).collect();
        assert_eq!(found, expect);
    }

    #[test]
    fn all_versions_but_one_are_skipped() {
        check(&["1.0.0"], &[], &[]);
        check(&["1.0.0", "2.0.0"], &[], &["a is built as 1.0.0, 2.0.0"]);
        check(&["1.0.0", "2.0.0"], &["a:1"], &[]);
        check(&["1.0.0", "2.0.0", "3.1.0"], &["a:1"], &["a is built as 1.0.0, 2.0.0, 3.1.0"]);
        check(&["0.2.3", "0.3.0"], &["a:0.2"], &[]);
    }

    #[test]
    fn what_is_no_duplicate_is_not_skipped() {
        check(&["1.0.0"], &["a:1"], &["a:^1 is skipped and no duplicate"]);
        check(&["1.0.0", "2.0.0"], &["a:1", "b:1"], &["b:^1 is skipped and no duplicate"]);
    }

    #[test]
    fn a_skip_has_a_version_and_a_reason() {
        let broken = |entry: &str| skips(&format!("[bans]\nskip = [{entry}]")).is_err();
        assert!(broken("{ crate = \"a\", reason = \"r\" }"));
        assert!(broken("{ crate = \"a:1\" }"));
        assert!(broken("{ crate = \"a:1\", reason = \"\" }"));
        assert!(broken("{ crate = \"a:one\", reason = \"r\" }"));
    }
}
